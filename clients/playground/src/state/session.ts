// Everything of this page that outlives a view: the client, the rooms that were opened, what is said to the user.

import { type Client, connect, type LogEvent, newId, type Status, type Turn, TurnwireError } from "@turnwire/client";
import { tab } from "./keep";
import { Line } from "./line";
import { ConversationList } from "./list";
import { Room } from "./room";
import { Store } from "./store";
import { browserTime, pageColour, restoreColour } from "./tools";
import { Traffic } from "./traffic";

export interface Route {
  name: string;
  /** The demonstration model answers there. */
  demo: boolean;
}

export interface Toast {
  id: number;
  tone: "plain" | "good" | "bad";
  text: string;
}

const TOAST_MS = 6_000;
const MOST_TOASTS = 3;
const MOST_SEEN = 64;

const idOfHash = () => decodeURIComponent(location.hash.slice(1)) || undefined;

export class Session {
  readonly line = new Line();
  readonly client: Client;
  readonly status: Store<Status>;
  readonly traffic: Traffic;
  readonly list: ConversationList;
  /** The conversation that is shown; undefined for one that has not begun. */
  readonly current = new Store<string | undefined>(idOfHash());
  readonly toasts = new Store<readonly Toast[]>([]);
  /** What a screen reader is told. */
  readonly said = new Store("");
  /** Which turn the inspector shows; undefined for the newest. */
  readonly chosenTurn = new Store<string | undefined>(undefined);
  readonly routes: readonly Route[];
  #rooms = new Map<string, Room>();
  #toasts = 0;

  constructor() {
    const url = `${location.origin.replace(/^http/, "ws")}/v1`;
    const said = document.querySelector<HTMLMetaElement>('meta[name="turnwire-routes"]')?.content;
    this.routes = JSON.parse(said || "[]");
    this.client = connect(url, {
      name: "turnwire-playground",
      WebSocket: this.line.Socket,
      token: () => tab.get<string>("token") ?? undefined,
      tools: [pageColour, browserTime],
    });
    this.status = new Store(this.client.status);
    this.traffic = new Traffic(this.client);
    this.list = new ConversationList(this.client);
    this.client.on("status", (status) => this.status.set(status));
    this.client.on("notice", ({ kind, message }) => this.toast("plain", message ?? kind));
    this.client.on("error", (error) => this.toast("bad", error.message));
    this.client.on("returned", (turn) => this.#returned(turn));
    addEventListener("hashchange", () => this.current.set(idOfHash()));
    addEventListener("pagehide", () => this.keep());
    restoreColour();
    this.client.connect();
  }

  room(id: string): Room {
    const known = this.#rooms.get(id);
    if (known) return known;
    const room = new Room(this.client, id);
    this.#rooms.set(id, room);
    room.onEvent((event) => this.#heard(event));
    return room;
  }

  /** It was made or seen in this tab. */
  isKnown(id: string): boolean {
    return (
      (tab.get<string[]>("seen") ?? []).includes(id) || this.list.value.items.some((one) => one.conversation_id === id)
    );
  }

  async isThere(id: string): Promise<boolean> {
    const found = await this.client
      .conversation(id)
      .history({ limit: 1 })
      .then(
        () => true,
        (error: TurnwireError) => error.code !== "not_found",
      );
    if (found) this.#seen(id);
    return found;
  }

  /** It is gone: a reload must not make it anew. */
  gone(id: string): void {
    this.#rooms.get(id)?.forget();
    tab.set(
      "seen",
      (tab.get<string[]>("seen") ?? []).filter((one) => one !== id),
    );
    this.list.drop(id);
  }

  /** Show a conversation; without an id, the place where one begins. */
  show(id?: string): void {
    if (id === this.current.value) return;
    this.chosenTurn.set(undefined);
    history.pushState(null, "", id ? `#${encodeURIComponent(id)}` : location.pathname);
    this.current.set(id);
  }

  /** A conversation that begins with this. */
  begin(title: string): Room {
    const id = newId();
    this.client.conversation(id, { title: title.trim().replace(/\s+/g, " ").slice(0, 80) });
    const room = this.room(id);
    this.#seen(id);
    this.show(id);
    return room;
  }

  async remove(id: string): Promise<void> {
    await this.client.conversation(id).delete();
    if (this.current.value === id) this.show();
    this.gone(id);
    this.#rooms.delete(id);
  }

  signIn(token: string | undefined): void {
    tab.set("token", token || undefined);
    this.client.close();
    this.client.connect();
  }

  toast(tone: Toast["tone"], text: string): void {
    const toast = { id: ++this.#toasts, tone, text };
    this.toasts.set([...this.toasts.value, toast].slice(-MOST_TOASTS));
    setTimeout(() => this.dismiss(toast.id), TOAST_MS);
  }

  dismiss(id: number): void {
    this.toasts.set(this.toasts.value.filter((toast) => toast.id !== id));
  }

  /** Do it, and tell of it when it does not work. */
  async attempt(what: Promise<unknown>): Promise<void> {
    try {
      await what;
    } catch (error) {
      this.toast("bad", inWords(error));
    }
  }

  keep(): void {
    for (const room of this.#rooms.values()) room.keep();
  }

  #seen(id: string): void {
    tab.set("seen", [...new Set([...(tab.get<string[]>("seen") ?? []), id])].slice(-MOST_SEEN));
  }

  #returned(turn: Turn): void {
    const { error } = turn;
    // A turn of a conversation that is gone needs no words; an earlier one that is over has none to give.
    if (!error || error.code === "deleted" || error.code === "not_found") return;
    this.toast("bad", `Not sent: ${inWords(error)}`);
  }

  #heard(event: LogEvent): void {
    if (event.type === "message.created" || "terminal" in event) this.list.refreshSoon();
    if (event.conversation_id !== this.current.value) return;
    const words = announce(event);
    if (words) this.said.set(words);
  }
}

/** What went wrong, and what to do about it. */
export function inWords(error: unknown): string {
  if (!(error instanceof TurnwireError)) return String(error instanceof Error ? error.message : error);
  switch (error.code) {
    case "lost":
      return "The connection ended before the server answered. Look whether it was done, and try again.";
    case "stale":
      return "It waited too long for a connection. Send it again if you still want it.";
    case "queue_full":
      return "Too much is waiting to be sent. Wait for the connection to come back.";
    case "closed":
      return "The connection is closed. Open it again under Connection.";
    case "rate_limited":
      return "Too many requests in a short time. Wait a moment and send it again.";
    case "quota_exceeded":
      return `A budget is used up: ${error.message}.`;
    case "stale_version":
      return "Somebody else has changed it in the meantime. Their version is shown now.";
    case "already_settled":
      return "Somebody else has decided this already.";
    case "unavailable":
      return "A part of the server does not answer. Try again in a moment.";
    case "forbidden":
      return `You may not do that here: ${error.message}.`;
    default:
      return error.message;
  }
}

/** Beginnings and ends, but not every word. */
function announce(event: LogEvent): string | undefined {
  switch (event.type) {
    case "message.started":
      return "The answer begins.";
    case "tool.approval_required":
      return "The answer waits for your approval of a tool.";
    case "message.completed": {
      const text = event.message?.parts.map((part) => (part.kind === "text" ? part.text : "")).join(" ") ?? "";
      return `The answer is complete. ${text.slice(0, 600)}`;
    }
    case "message.cancelled":
      return "The answer was stopped.";
    case "message.interrupted":
      return "The answer was interrupted.";
    case "message.incomplete":
      return "The answer is incomplete.";
    case "message.failed":
      return `The answer failed. ${event.error.message}`;
  }
}
