// The life of a client's connection, without a socket and without a clock: what happens comes in as calls with `now`
// (monotonic milliseconds), what has to be done comes out of `actions`, and `nextTimer` says when to `tick`. At most one
// link is live. After `goaway` a second one is opened behind it, which takes its place in one moment and is heard only
// from then on; what comes from any other link is ignored. `driver` has the sockets.
//
// A link goes token → dialing → greeting → open, and whatever fails, fails the link. What comes then is the state's
// affair, and nothing stops in silence: `waiting` and `offline` have a timer, `unauthorized` and `closed` say that
// somebody has to do something.

import { BASE_MS, backoff } from "./backoff.js";
import type { GoAway, Welcome } from "./protocol.js";

export type ClientState = "idle" | "connecting" | "open" | "waiting" | "offline" | "unauthorized" | "closed";
/** Why a token is asked for. `refresh`: the present one is about to expire. `rejected`: the server does not take it. */
export type TokenReason = "connect" | "refresh" | "expired" | "rejected";

export interface Status {
  state: ClientState;
  /** Why, in words for a log. */
  reason?: string;
  /** The close code that led here. */
  code?: number;
  /** When the next attempt begins by itself. */
  nextAttemptAt?: number;
}

export type Action =
  | ["token", number, TokenReason]
  | ["dial" | "hello" | "ping" | "drop", number]
  | ["refresh", number, string]
  | ["live", number, Welcome]
  | ["lost"]
  | ["status", Status];

interface Link {
  id: number;
  phase: "token" | "dialing" | "greeting" | "open";
  /** When it has to have come on, or to have answered its ping. */
  deadline: number;
  sentAt: number;
  openedAt: number;
}

/** For each phase on the way: half-open dials would park for ever. Also for the answer to a ping. */
export const DIAL_MS = 8_000;
/** For the answer to a ping when the page has come back. */
export const PROBE_MS = 2_000;
/** A connection that has lived so long was a good one. */
export const HEALTHY_MS = 5_000;
/** A browser that says `offline` is not always right. */
export const OFFLINE_MS = 60_000;
/** Tokens that may be expired in a row; one that is refused may be so once. */
const TRIES = 3;
/** Part of a token's life after which it is renewed. */
const RENEW_AT = 0.8;
const NEVER = Number.POSITIVE_INFINITY;

export class Machine {
  readonly actions: Action[] = [];
  #live: Link | undefined;
  #next: Link | undefined;
  #links = 0;
  #online = true;
  #failures = 0;
  #refusals = 0;
  /** How long the server has asked to stay away. */
  #patience = 0;
  #heartbeat = 0;
  #attemptAt = NEVER;
  #replaceAt = NEVER;
  #renewAt = NEVER;

  constructor(private readonly random: () => number) {}

  /** Somebody needs the connection, now. */
  want(now: number): void {
    if (this.#live) return;
    this.#refusals = 0;
    this.#begin("connect", now);
  }

  /** No more, until `want`. */
  close(): void {
    this.#drop(this.#next);
    this.#next = undefined;
    this.#lose();
    this.#set({ state: "closed", reason: "closed by the application" });
  }

  /** Something has changed that may have changed the network: the page is seen again, a network has come or gone. */
  woke(online: boolean, now: number): void {
    this.#online = online;
    if (this.#live?.phase === "open") this.#ping(this.#live, PROBE_MS, now);
    else if (this.#attemptAt < NEVER && online) this.#begin("connect", now);
    else if (this.#attemptAt < NEVER) this.#wait({}, 0, now);
  }

  /** The token that was asked for; none where none is needed. */
  token(id: number, token: string | undefined, now: number): void {
    const link = this.#find(id);
    if (link?.phase === "token") {
      this.#move(link, "dialing", now);
      this.actions.push(["dial", id]);
    } else if (link && token) this.actions.push(["refresh", id, token]);
  }

  noToken(id: number, reason: string, now: number): void {
    const link = this.#find(id);
    if (link?.phase === "open") this.#renewAt = now + DIAL_MS;
    else this.failed(id, now, reason);
  }

  dialed(id: number, now: number): void {
    const link = this.#find(id);
    if (link) this.#move(link, "greeting", now);
    this.actions.push(["hello", id]);
  }

  /** Whether what this link brings counts. */
  isLive(id: number): boolean {
    return this.#live?.id === id && this.#live.phase === "open";
  }

  received(id: number): void {
    if (this.isLive(id)) (this.#live as Link).deadline = NEVER;
  }

  sent(id: number, now: number): void {
    const link = this.#find(id);
    if (link) link.sentAt = now;
  }

  welcomed(id: number, welcome: Welcome, now: number): void {
    const link = this.#find(id);
    if (link?.phase !== "greeting") return;
    if (link === this.#next) {
      this.#lose();
      this.#next = undefined;
    }
    this.#live = Object.assign(link, { phase: "open", openedAt: now, deadline: NEVER });
    this.#heartbeat = welcome.heartbeat_s * 1000;
    this.#refusals = this.#patience = 0;
    this.renewed(welcome.expires_at && welcome.expires_at - welcome.server_time, now);
    this.actions.push(["live", id, welcome]);
    this.#set({ state: "open" });
  }

  /** The token counts for so many more milliseconds. */
  renewed(life: number | undefined, now: number): void {
    this.#renewAt = life === undefined ? NEVER : now + Math.max(life * RENEW_AT, BASE_MS);
  }

  /** The server has said that the token does not count any more. */
  expired(now: number): void {
    this.#renewAt = now;
  }

  goaway({ deadline_ms, retry_after_ms }: GoAway, now: number): void {
    this.#replaceAt = now + Math.min(retry_after_ms, deadline_ms);
  }

  /** The server asks to stay away for so long after the end of this connection. */
  stayAway(ms = 0): void {
    this.#patience = ms;
  }

  nextTimer(): number {
    const links = [this.#live, this.#next].flatMap((link) =>
      link ? [link.deadline, link.phase === "open" ? link.sentAt + this.#heartbeat : NEVER] : NEVER,
    );
    return Math.min(...links, this.#attemptAt, this.#replaceAt, this.#renewAt);
  }

  tick(now: number): void {
    for (const link of [this.#next, this.#live]) {
      if (link && now >= link.deadline) this.failed(link.id, now, `no answer while ${link.phase}`);
      // However much comes in: the server wants to hear something too.
      else if (link?.phase === "open" && now >= link.sentAt + this.#heartbeat) this.#ping(link, DIAL_MS, now);
    }
    if (now >= this.#attemptAt) this.#begin("connect", now);
    if (now >= this.#replaceAt) {
      this.#replaceAt = NEVER;
      this.#next = this.#open("connect", now);
    }
    if (now >= this.#renewAt && this.#live) {
      this.#renewAt = NEVER;
      this.actions.push(["token", this.#live.id, "refresh"]);
    }
  }

  /** The link has ended, or is given up. */
  failed(id: number, now: number, reason?: string, code?: number): void {
    const link = this.#find(id);
    if (link && link === this.#next) {
      // The old one lives still; when it ends, the usual way back begins.
      this.#drop(link);
      this.#next = undefined;
    } else if (link) {
      const wasHealthy = link.phase === "open" && now - link.openedAt >= HEALTHY_MS;
      this.#lose();
      this.#live = this.#next;
      this.#next = undefined;
      if (this.#live) this.#set({ state: "connecting", reason, code });
      else this.#comeBack({ reason, code }, wasHealthy, now);
    }
  }

  #find(id: number): Link | undefined {
    return [this.#live, this.#next].find((link) => link?.id === id);
  }

  #begin(reason: TokenReason, now: number): void {
    this.#attemptAt = NEVER;
    this.#live = this.#open(reason, now);
    this.#set({ state: "connecting" });
  }

  #open(reason: TokenReason, now: number): Link {
    const id = ++this.#links;
    this.actions.push(["token", id, reason]);
    return { id, phase: "token", deadline: now + DIAL_MS, sentAt: now, openedAt: 0 };
  }

  #move(link: Link, phase: Link["phase"], now: number): void {
    link.phase = phase;
    link.deadline = now + DIAL_MS;
  }

  #ping(link: Link, patience: number, now: number): void {
    link.deadline = Math.min(link.deadline, now + patience);
    link.sentAt = now;
    this.actions.push(["ping", link.id]);
  }

  #drop(link: Link | undefined): void {
    if (link) this.actions.push(["drop", link.id]);
  }

  #lose(): void {
    this.#drop(this.#live);
    if (this.#live?.phase === "open") this.actions.push(["lost"]);
    this.#live = undefined;
    this.#attemptAt = this.#replaceAt = this.#renewAt = NEVER;
  }

  // The ranges count and not the single codes, so that those of later versions do as well (SPEC section 8).
  #comeBack(why: Omit<Status, "state">, wasHealthy: boolean, now: number): void {
    const { code = 0 } = why;
    const isRefused = code === 4501 || code === 4503;
    if (wasHealthy) this.#failures = 0;
    if (isRefused || code === 4401) {
      if (++this.#refusals > (isRefused ? 1 : TRIES)) this.#set({ ...why, state: "unauthorized" });
      else this.#begin(isRefused ? "rejected" : "expired", now);
    } else if (code >= 4500 && code < 5000) this.#set({ ...why, state: "closed" });
    else {
      const isAtOnce = wasHealthy && code !== 4010;
      this.#wait(why, Math.max(isAtOnce ? 0 : backoff(this.#failures, this.random), this.#patience), now);
      this.#failures += 1;
      this.#patience = 0;
    }
  }

  #wait(why: Omit<Status, "state">, delay: number, now: number): void {
    this.#attemptAt = now + (this.#online ? delay : OFFLINE_MS);
    this.#set({ ...why, state: this.#online ? "waiting" : "offline", nextAttemptAt: this.#attemptAt });
  }

  #set(status: Status): void {
    this.actions.push(["status", status]);
  }
}
