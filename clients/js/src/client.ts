// `connect`: one client, one connection at a time, any number of conversations. Nothing happens before somebody needs
// something, so it may be made anywhere, on a server too.

import { Conversation, type ConversationOptions } from "./conversation.js";
import { Driver, type SocketClass, type TokenSource } from "./driver.js";
import { errorFrom, TurnwireError, tell } from "./errors.js";
import { json, snake } from "./json.js";
import type { Status } from "./machine.js";
import { type Create, Memory, type Store, sessionStore } from "./memory.js";
import { type Entry, type Limits, Outbox } from "./outbox.js";
import type * as wire from "./protocol.js";
import type { Approver, Tool, ToolRunner } from "./tools.js";
import { Turn } from "./turn.js";
import type { Codec, Placed } from "./types.js";

export interface ConnectOptions {
  /** The token, or where to get one. Asked before each connection and before it expires. */
  token?: TokenSource;
  /** The name of the application, for the server's logs. */
  name?: string;
  /** JSON unless given; `() => import("@turnwire/client/msgpack").then((m) => m.msgpack)` loads the other one. */
  codec?: Codec | (() => Promise<Codec>);
  /** Where there is none by itself, as in Node 20: the class of `ws`. */
  WebSocket?: SocketClass;
  /** Where to keep what survives a reload. `sessionStorage` unless given; false for nowhere. */
  storage?: Store | false;
  /** How much may wait for an answer. */
  queue?: Partial<Limits>;
  /** Turns that have waited longer, in milliseconds, are handed back instead of being sent. */
  maxAgeMs?: number;
  tools?: Tool[];
  /** Decides on calls of tools that need an approval. */
  onApproval?: Approver;
}

export interface ClientEvents {
  status: Status;
  /** A turn that was handed back without being run: see its `error`. */
  returned: Turn;
  notice: wire.Notice;
  /** What nobody waits for has gone wrong. */
  error: TurnwireError;
  traffic: { direction: "in" | "out"; message: wire.Command | wire.ServerMessage };
}

const MOST_RESUMED = 64;
const KEEP_MS = 250;
const LATER_MS = 100;
const NEVER = Number.POSITIVE_INFINITY;

const isCreate = (command: wire.Command): command is Create => /request\.(create|regenerate)/.test(command.type);

export class Client {
  /** What this connection is allowed, and who it acts for. */
  welcome: wire.Welcome | undefined;
  status: Status = { state: "idle" };
  /** @internal */
  readonly _memory: Memory;
  /** @internal Commands whose newest word counts alone, by what they are about; with whether it was sent. */
  readonly _laters = new Map<string, [wire.Command, boolean]>();
  #conversations = new Map<string, Conversation>();
  #resumed: Conversation[] = [];
  #outbox: Outbox;
  #driver: Driver;
  #laterAt = NEVER;
  #keepAt = NEVER;
  #listeners = new Map<string, Set<(about: never) => void>>();
  #tools = new Map<string, Tool>();
  #approver: Approver | undefined;
  #runner: Promise<ToolRunner> | undefined;
  #maxAgeMs: number;
  #isRestored = false;
  #name: string;

  constructor(url: string, options: ConnectOptions) {
    const { name = "turnwire-js", codec = json, storage = sessionStore(), queue, maxAgeMs = 60_000, tools } = options;
    this.#name = name;
    this.#maxAgeMs = maxAgeMs;
    this._memory = new Memory(storage || undefined, `turnwire ${url}`);
    this.#outbox = new Outbox({ entries: 256, bytes: 1_048_576, ...queue }, Math.random);
    this.#driver = new Driver(url, { ...options, codec }, this);
    for (const tool of tools ?? []) this.tool(tool);
    if (options.onApproval) this.approver(options.onApproval);
  }

  /** The conversation with this id; the same object each time. It is made on the server when it is first followed. */
  conversation(id: string, options?: ConversationOptions): Conversation {
    const conversation = this.#conversations.get(id) ?? new Conversation(this, id);
    this.#conversations.set(id, conversation);
    if (options) conversation.options = options;
    return conversation;
  }

  /** The turns that were open when the page was left, and those that are now. */
  openTurns(): Turn[] {
    return Object.entries(this._memory._kept.turns).map(([id, where]) => this.conversation(where).turn(id));
  }

  /** Connect now, or try again now. Nobody has to call this, but after `unauthorized` and `closed`. */
  connect(): void {
    this.#driver._want();
  }

  /** For good, until `connect`. What runs on the server goes on; what waits here is rejected. */
  close(): void {
    this.#keep();
    this.#driver._close();
    this._memory._leave();
    if (this.#isRestored) globalThis.removeEventListener?.("pagehide", this.#keep);
  }

  /** Forget what survives a reload; for when the user signs out. */
  forget(): void {
    this._memory._forget();
  }

  on<Name extends keyof ClientEvents>(name: Name, listener: (about: ClientEvents[Name]) => void): () => boolean {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** Offer a tool in every turn that begins from now on. Gives the way to take it back. */
  tool<Arguments>(tool: Tool<Arguments>): () => void {
    this.#tools.set(tool.name, tool);
    this.#loadRunner();
    return () => this.#tools.get(tool.name) === tool && this.#tools.delete(tool.name);
  }

  /** Have approvals decided by `approver`, in place of the one before. */
  approver(approver: Approver | undefined): void {
    this.#approver = approver;
    this.#loadRunner();
  }

  list(page?: { limit?: number; before?: string }): Promise<wire.ConversationPage> {
    return this.request({ type: "conversation.list", ...page }) as Promise<wire.ConversationPage>;
  }

  /** Any command. It waits for a connection, and is sent again after one is lost where that is safe. */
  async request(command: wire.Command): Promise<wire.ServerMessage> {
    return this._post(command)[1];
  }

  /** @internal */
  get _isLive(): boolean {
    return this.#driver._isLive;
  }

  /** @internal */
  get _userId(): string | undefined {
    return this.welcome?.user_id;
  }

  /** @internal */
  _want(): void {
    if (this.status.state === "idle") this.#driver._want();
  }

  /** @internal */
  _post(command: wire.Command, at = Date.now(), sent = false): [Entry, Promise<wire.ServerMessage>] {
    if (this.status.state === "closed") throw new TurnwireError("closed", this.status.reason as string);
    const posted = this.#outbox.add(command, at, sent);
    this._want();
    this.#flush();
    return posted;
  }

  /** @internal A command of this connection alone. */
  async _transient(command: wire.Command): Promise<wire.ServerMessage> {
    const [, answer] = this.#outbox.add(command, 0, false, true);
    queueMicrotask(() => this.#flush());
    return answer;
  }

  /** @internal */
  _withdraw(entry: Entry): void {
    this.#outbox.drop(entry);
  }

  /** @internal Something whose newest word counts alone. It is sent soon, and again on each connection. */
  _later(key: string, command: wire.Command): void {
    this._laters.set(key, [command, false]);
    this.#laterAt = Math.min(this.#laterAt, this.#driver._now() + LATER_MS);
    this._want();
    this.#driver._run();
  }

  /** @internal */
  _keepSoon(): void {
    if (this.#keepAt < NEVER || this._memory._isNowhere) return;
    this.#keepAt = this.#driver._now() + KEEP_MS;
    this.#driver._run();
  }

  /** @internal */
  _emit<Name extends keyof ClientEvents>(name: Name, about: ClientEvents[Name]): void {
    tell(this.#listeners.get(name) ?? [], about as never);
  }

  /** @internal What is offered in each turn. */
  _offered(): wire.ClientTool[] | undefined {
    const tools = [...this.#tools.values()].map(({ run, ...tool }) => snake(tool) as wire.ClientTool);
    return tools.length ? tools : undefined;
  }

  /** @internal Something has changed there. */
  _look(conversation: Conversation): void {
    if (conversation._fold.live.size) this.#runner?.then((runner) => runner.look(conversation));
  }

  /** @internal */
  async _ready(): Promise<void> {
    await this._memory._claim();
    if (this.#isRestored) return;
    this.#isRestored = true;
    globalThis.addEventListener?.("pagehide", this.#keep);
    for (const { command, conversationId, at, sent } of this._memory._kept.unsent) {
      const { request_id: id, segments, input } = command as wire.RequestCreate;
      const conversation = this.conversation(conversationId);
      conversation._adopt(
        conversation._turns.get(id) ?? new Turn(conversation, id, input, segments),
        command,
        at,
        sent,
      );
    }
  }

  /** @internal */
  _hello() {
    this.#resumed = [...this.#conversations.values()]
      .filter(({ _isFollowed, _isKnown, _fold, _segments }) => _isFollowed && (_isKnown || _fold.epoch) && !_segments)
      .slice(0, MOST_RESUMED);
    return {
      client: { name: this.#name, instance_id: this._memory._kept.instance },
      resume: this.#resumed.map(({ id, _fold }) => ({ conversation_id: id, since: _fold.cursor })),
    };
  }

  /** @internal */
  _live(welcome: wire.Welcome): void {
    this.welcome = welcome;
    const user = `${welcome.tenant_id} ${welcome.user_id}`;
    const isOther = user !== (this._memory._kept.user ?? user);
    if (isOther) {
      this.#outbox.fail(new TurnwireError("forbidden", "another user has signed in"));
      this._memory._forget();
    }
    this._memory._kept.user = user;
    for (const conversation of this.#conversations.values()) {
      if (isOther) conversation._forget();
      if (conversation._isFollowed && (isOther || !this.#resumed.includes(conversation))) conversation._openHere();
    }
    for (const later of this._laters.values()) later[1] = false;
    this.#laterAt = 0;
    this.#flush();
  }

  /** @internal */
  _lost(): void {
    this.#outbox.lost();
    this.#resumed = [];
    for (const conversation of this.#conversations.values()) conversation._lost();
  }

  /** @internal */
  _status(status: Status): void {
    const { state, reason, nextAttemptAt: at } = status;
    // Monotonic inside, a time that can be shown outside.
    this.status = at ? { ...status, nextAttemptAt: Date.now() + at - this.#driver._now() } : status;
    if (state === "closed") this.#outbox.fail(new TurnwireError("closed", reason as string));
    this._emit("status", this.status);
  }

  /** @internal */
  _messages(messages: wire.ServerMessage[]): void {
    const events = new Map<string, Placed[]>();
    for (const message of messages) {
      const { conversation_id: id, ts } = message as Placed & { ts?: number };
      if (ts || message.type === "conversation.snapshot")
        events.set(id, [...(events.get(id) ?? []), message as Placed]);
      else this.#answer(message);
    }
    for (const [id, some] of events) this.#conversations.get(id)?._receive(some);
  }

  /** @internal */
  _traffic(direction: "in" | "out", message: wire.Command | wire.ServerMessage): void {
    this._emit("traffic", { direction, message });
  }

  /** @internal */
  _nextTimer(): number {
    return Math.min(this.#keepAt, ...(this._isLive ? [this.#outbox.nextTimer(), this.#laterAt] : []));
  }

  /** @internal */
  _tick(): void {
    const now = this.#driver._now();
    if (now >= this.#keepAt) this.#keep();
    if (this._isLive && now >= this.#laterAt) {
      this.#laterAt = NEVER;
      for (const later of this._laters.values()) {
        if (!later[1]) this.#driver._send(later[0]);
        later[1] = true;
      }
    }
    this.#flush();
  }

  #answer(message: wire.ServerMessage): void {
    const { ref = "", conversation_id: id = "" } = message as wire.ConversationOpened;
    const resumed = ref.startsWith("resume.") && this.#resumed[Number(ref.slice(7))];
    if (resumed)
      message.type === "error"
        ? resumed._refused(errorFrom(message))
        : resumed._opened(message as wire.ConversationOpened);
    else if (this.#outbox.answered(message, this.#driver._now())) return;
    else if (message.type === "error" && !/hello|refresh/.test(ref)) this._emit("error", errorFrom(message));
    if (message.type === "notice") this._emit("notice", message);
    this.#conversations.get(id)?._besides(message);
  }

  #flush(): void {
    for (const entry of this._isLive ? this.#outbox.due(this.#driver._now()) : []) {
      const { command, size, at, sent, transient } = entry;
      const most = this.welcome?.limits.frame_bytes as number;
      if (size > most) this.#outbox.drop(entry, new TurnwireError("too_large", `${size} of ${most} bytes`));
      else if (!transient && isCreate(command) && Date.now() - at > this.#maxAgeMs) {
        // One that may have arrived is looked for; one that has not is not sent unasked.
        if (sent) entry.command = { type: "request.status", request_id: command.request_id };
        else this.#outbox.drop(entry, new TurnwireError("stale", "waited too long to be sent unasked", true));
      }
      if (!this.#outbox.entries.has(entry.id)) continue;
      entry.underWay = entry.sent = true;
      this.#driver._send({ ...entry.command, id: entry.id });
    }
    this.#driver._run();
  }

  #loadRunner(): void {
    this.#runner ??= import("./tools.js").then(
      ({ ToolRunner }) => new ToolRunner(this, this.#tools, () => this.#approver),
    );
    for (const conversation of this.#conversations.values()) this._look(conversation);
  }

  #keep = (): void => {
    this.#keepAt = NEVER;
    for (const conversation of this.#conversations.values()) conversation._keep();
    const { _kept: kept } = this._memory;
    kept.unsent = [...this.#outbox.entries.values()].flatMap(({ command, at, sent, transient }) =>
      isCreate(command) && !transient
        ? { command, at, sent, conversationId: kept.turns[command.request_id] as string }
        : [],
    );
    this._memory._save();
  };
}

/** A client of the server at `url`, as `wss://example.com/v1`. It connects when it is first needed. */
export const connect = (url: string, options: ConnectOptions = {}): Client => new Client(url, options);
