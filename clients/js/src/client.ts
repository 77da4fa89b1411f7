// `connect`: one client, one connection at a time, any number of conversations. Nothing happens before somebody needs
// something, so it may be made anywhere, on a server too.

import { Conversation, type ConversationOptions } from "./conversation.js";
import type { SocketClass, TokenSource } from "./driver.js";
import { TurnwireError, tell } from "./errors.js";
import { json, snake } from "./json.js";
import type { Status } from "./machine.js";
import { type Create, Memory, type Store, sessionStore } from "./memory.js";
import { type Entry, type Limits, Outbox } from "./outbox.js";
import type * as wire from "./protocol.js";
import type { Session } from "./session.js";
import type { Approver, Tool, ToolRunner } from "./tools.js";
import type { Turn } from "./turn.js";
import type { Codec } from "./types.js";

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

const KEEP_MS = 250;
/** After the code for a connection could not be fetched. */
const RELOAD_MS = 2_000;

export const isCreate = (command: wire.Command): command is Create => /request\.(create|regenerate)/.test(command.type);

export class Client {
  /** What this connection is allowed, and who it acts for. */
  welcome: wire.Welcome | undefined;
  status: Status = { state: "idle" };
  /** @internal */
  readonly _memory: Memory;
  /** @internal */
  readonly _outbox: Outbox;
  /** @internal */
  readonly _conversations = new Map<string, Conversation>();
  /** @internal Commands whose newest word counts alone, by what they are about; with whether it was sent. */
  readonly _laters = new Map<string, [wire.Command, boolean]>();
  #session: Session | undefined;
  #loading: Promise<void> | undefined;
  #keeping: ReturnType<typeof setTimeout> | undefined;
  #listeners = new Map<string, Set<(about: never) => void>>();
  #tools = new Map<string, Tool>();
  #approver: Approver | undefined;
  #runner: Promise<ToolRunner> | undefined;
  #looked = new WeakSet<Conversation>();

  constructor(
    private readonly _url: string,
    /** @internal */
    readonly _options: ConnectOptions,
  ) {
    const { storage = sessionStore(), queue, tools, onApproval } = _options;
    this._memory = new Memory(storage || undefined, `turnwire ${_url}`);
    this._outbox = new Outbox({ entries: 256, bytes: 1_048_576, ...queue });
    for (const tool of tools ?? []) this.tool(tool);
    if (onApproval) this.approver(onApproval);
  }

  /** The conversation with this id; the same object each time. It is made on the server when it is first followed. */
  conversation(id: string, options?: ConversationOptions): Conversation {
    const conversation = this._conversations.get(id) ?? new Conversation(this, id);
    this._conversations.set(id, conversation);
    if (options) conversation.options = options;
    return conversation;
  }

  /** The turns that were open when the page was left, and those that are now. */
  openTurns(): Turn[] {
    return Object.entries(this._memory._kept.turns).map(([id, where]) => this.conversation(where).turn(id));
  }

  /** Connect now, or try again now. Nobody has to call this, but after `unauthorized` and `closed`. */
  connect(): void {
    if (this.#session) this.#session._driver._want();
    else this.#load();
  }

  /** For good, until `connect`. What runs on the server goes on; what waits here is rejected. */
  close(): void {
    this._keep();
    if (this.#session) this.#session._close();
    else this._setStatus({ state: "closed", reason: "closed by the application" });
    this._memory._leave();
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
    return this.#session?._driver._isLive === true;
  }

  /** @internal */
  _want(): void {
    if (this.status.state === "idle") this.connect();
  }

  /** @internal */
  _post(command: wire.Command, at = Date.now(), sent = false): [Entry, Promise<wire.ServerMessage>] {
    if (this.status.state === "closed") throw new TurnwireError("closed", this.status.reason as string);
    const posted = this._outbox.add(command, at, sent);
    this._want();
    this.#session?._flush();
    return posted;
  }

  /** @internal A command of this connection alone. */
  async _transient(command: wire.Command): Promise<wire.ServerMessage> {
    const [, answer] = this._outbox.add(command, 0, false, true);
    queueMicrotask(() => this.#session?._flush());
    return answer;
  }

  /** @internal */
  _withdraw(entry: Entry): void {
    this._outbox.drop(entry);
  }

  /** @internal Something whose newest word counts alone. It is sent soon, and again on each connection. */
  _later(key: string, command: wire.Command): void {
    this._laters.set(key, [command, false]);
    this._want();
    this.#session?._sayLater();
  }

  /** @internal */
  _keepSoon(): void {
    if (this._memory._store) this.#keeping ??= setTimeout(this._keep, KEEP_MS);
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
    // Also once nothing runs there any more: a call and its request may end with one frame.
    if (conversation._fold.live.size || this.#looked.has(conversation))
      this.#runner?.then((runner) => {
        this.#looked.add(conversation);
        runner.look(conversation);
      });
  }

  /** @internal */
  _setStatus(status: Status): void {
    const { state, reason, nextAttemptAt: at } = status;
    // Monotonic inside, a time that can be shown outside.
    this.status = at ? { ...status, nextAttemptAt: Date.now() + at - performance.now() } : status;
    if (state === "closed") this._outbox.fail(new TurnwireError("closed", reason as string));
    this._emit("status", this.status);
  }

  #load(): void {
    this._setStatus({ state: "connecting" });
    this.#loading ??= import("./engine.js").then(
      (engine) => {
        this.#session = new engine.Session(this, this._url, { codec: json, ...this._options });
        if (this.status.state !== "closed") this.connect();
      },
      (error) => {
        // It could not be fetched: no network, most likely.
        this.#loading = undefined;
        const at = performance.now() + RELOAD_MS;
        this._setStatus({ state: "waiting", reason: `${error}`, nextAttemptAt: at });
        setTimeout(() => this.status.state === "waiting" && this.connect(), RELOAD_MS);
      },
    );
  }

  #loadRunner(): void {
    this.#runner ??= import("./tools.js").then(
      ({ ToolRunner }) => new ToolRunner(this, this.#tools, () => this.#approver),
    );
    for (const conversation of this._conversations.values()) this._look(conversation);
  }

  /** @internal Write down what is to survive a reload. */
  _keep = (): void => {
    clearTimeout(this.#keeping);
    this.#keeping = undefined;
    for (const conversation of this._conversations.values()) conversation._keep();
    const { _kept: kept } = this._memory;
    kept.unsent = [...this._outbox.entries.values()].flatMap(({ command, at, sent, transient }) =>
      isCreate(command) && !transient
        ? { command, at, sent, conversationId: kept.turns[command.request_id] as string }
        : [],
    );
    this._memory._save();
  };
}

/** A client of the server at `url`, as `wss://example.com/v1`. It connects when it is first needed. */
export const connect = (url: string, options: ConnectOptions = {}): Client => new Client(url, options);
