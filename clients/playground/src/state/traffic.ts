// Every message that passes, for the inspector: the newest so many, told at most once a frame. Also where each log
// stands, because answers and events say so.

import type { Client, wire } from "@turnwire/client";
import type { Watched } from "./store";

export interface Passing {
  n: number;
  direction: "in" | "out";
  at: number;
  /** Milliseconds since this page first heard of the request that it is about. */
  since?: number;
  message: wire.Command | wire.ServerMessage;
}

export interface TrafficView {
  entries: readonly Passing[];
  count: number;
  cursors: ReadonlyMap<string, { epoch: string; seq: number; verdict?: string }>;
  limits?: wire.RateLimitsUpdated["limits"];
  goaway?: wire.GoAway & { at: number };
}

const MOST = 2_000;

// biome-ignore lint/suspicious/noExplicitAny: fields of any message
type Any = any;

export class Traffic implements Watched<TrafficView> {
  value: TrafficView = { entries: [], count: 0, cursors: new Map() };
  #next: { -readonly [K in keyof TrafficView]: TrafficView[K] } = { ...this.value };
  #began = new Map<string, number>();
  #listeners = new Set<() => void>();
  #isTelling = false;

  constructor(client: Client) {
    client.on("traffic", ({ direction, message }) => this.#take(direction, message));
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  clear(): void {
    this.#next = { ...this.#next, entries: [] };
    this.#tell();
  }

  #take(direction: "in" | "out", message: Any): void {
    const at = Date.now();
    const { request_id: id, conversation_id: place, epoch, seq, type } = message;
    if (id && !this.#began.has(id)) this.#began.set(id, at);
    const shown = "token" in message ? { ...message, token: "…" } : message;
    const next = this.#next;
    const n = next.count + 1;
    const entry: Passing = { n, direction, at, since: id && at - (this.#began.get(id) as number), message: shown };
    next.count = n;
    next.entries = [...next.entries.slice(next.entries.length >= MOST ? 1 : 0), entry];
    if (direction === "in" && place && seq !== undefined) {
      const known = next.cursors.get(place);
      const cursor = { epoch: epoch ?? known?.epoch ?? "", seq, verdict: message.verdict ?? known?.verdict };
      // Answers tell of the log's end; what they announce comes behind them.
      if (!known || epoch || seq > known.seq) next.cursors = new Map(next.cursors).set(place, cursor);
    }
    if (type === "rate_limits.updated") next.limits = message.limits;
    if (type === "goaway") next.goaway = { ...message, at };
    if (type === "welcome") next.goaway = undefined;
    this.#tell();
  }

  #tell(): void {
    if (this.#isTelling) return;
    this.#isTelling = true;
    setTimeout(() => {
      this.#isTelling = false;
      this.value = { ...this.#next };
      for (const listener of [...this.#listeners]) listener();
    }, 50);
  }
}
