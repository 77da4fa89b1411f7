// One conversation: what is known of it, the turns that this client holds, and following it on whatever connection
// there is. The client gives it what comes; what that adds up to is in `fold`.

import type { Client } from "./client.js";
import { TurnwireError, tell } from "./errors.js";
import { Fold } from "./fold.js";
import { newId } from "./id.js";
import { snake } from "./json.js";
import { Misfit, textOfParts } from "./live.js";
import type { Create } from "./memory.js";
import type { ConversationOptions, ConversationView, SendOptions } from "./options.js";
import type * as wire from "./protocol.js";
import { Turn } from "./turn.js";
import { endingOf, type LogEvent, type Placed, type RequestState, type TerminalEvent } from "./types.js";
import { viewOf } from "./view.js";

export type { ConversationOptions, ConversationView, SendOptions } from "./options.js";

/** A component that is only put elsewhere comes back in a moment. */
const GRACE_MS = 1_000;
/** A cursor that no log has: asks for a snapshot, also where the conversation is followed already. */
const NOWHERE = { epoch: "-", seq: 0 };

type Take = (fold: Fold, frame: readonly Placed[]) => Placed[];

export class Conversation {
  /** @internal */
  _fold = new Fold();
  /** @internal */
  readonly _turns = new Map<string, Turn>();
  /** @internal */
  _isFollowed = false;
  /** @internal The server has told of it: it exists, or existed. */
  _isKnown = false;
  /** What it is made with, and how it is followed. */
  options: ConversationOptions = {};
  #status: ConversationView["status"] = "idle";
  #opened: Partial<wire.ConversationOpened> = {};
  #present = new Map<string, wire.Presence>();
  #isLost = false;
  #isHeld = false;
  #kept = 0;
  #view: ConversationView | undefined;
  #listeners = new Set<() => void>();
  #watchers = new Set<(event: LogEvent) => void>();
  #grace: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly client: Client,
    readonly id: string,
  ) {}

  /** Say something. The turn has its id at once, and goes on whatever becomes of this page. */
  send(input: wire.RequestCreate["input"], options?: SendOptions): Turn {
    return this.#create({ type: "request.create", conversation_id: this.id, input }, options);
  }

  /** Another answer beside the one with this `message_id`, or to the user's message with it. */
  regenerate(messageId: string, options?: SendOptions): Turn {
    return this.#create({ type: "request.regenerate", message_id: messageId }, options);
  }

  /** The turn with this id, to be taken up again: after a reload, in another tab, on another day. */
  turn(id: string): Turn {
    const turn = this._turns.get(id) ?? new Turn(this, id);
    this._listen(turn);
    if (this.#status === "live") this.#look(turn);
    return turn;
  }

  /** Everything at once; the same object until something changes. */
  get view(): ConversationView {
    this.#view ??= viewOf(this._fold.view(), [...this._turns.values()], this.#status, this.#present, this.#opened);
    return this.#view;
  }

  /** Follow it, and be called after each change. Gives the way out; when nobody is left, it is left. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    this._follow();
    return () => {
      this.#listeners.delete(listener);
      this._mayLeave();
    };
  };

  /** Each event of the log as it comes; not those that a snapshot stands for. */
  onEvent(watcher: (event: LogEvent) => void): () => boolean {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** Follow it until `leave`. Resolves once it has caught up, rejects when it may not. */
  open(): Promise<void> {
    this.#isHeld = true;
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.#status === "opening") return;
        stop();
        if (this.#status === "live") resolve();
        else reject(new TurnwireError(this.#status === "denied" ? "forbidden" : "deleted", this.id));
      };
      const stop = this.subscribe(() => look());
      look();
    });
  }

  /** Stop following. Nothing that runs is stopped. */
  leave(): void {
    clearTimeout(this.#grace);
    if (!this._isFollowed) return;
    this._keep();
    this.#stop("idle");
    for (const turn of this._turns.values()) if (turn._isDetached) this._turns.delete(turn.id);
    if (this.client._isLive) this.#ask({ type: "conversation.leave", conversation_id: this.id });
  }

  /** One page of older messages, into `view.messages`. */
  async loadOlder(limit?: number): Promise<void> {
    const fold = this._fold;
    if (!fold.before) return;
    fold.prepend(await this.history({ before: fold.before, limit }));
    this._changed();
  }

  history(page: { before?: string; limit?: number; leaf?: string } = {}): Promise<wire.ConversationMessages> {
    return this.#say("conversation.history", page);
  }

  /** Give a user a role here, or take it away with null. */
  share(userId: string, role: wire.ConversationShare["role"]): Promise<unknown> {
    return this.#say("conversation.share", { user_id: userId, role });
  }

  delete(): Promise<unknown> {
    return this.#say("conversation.delete");
  }

  /** What the others see of this user here; null takes it back. Said again after each reconnect. */
  setPresence(state: unknown): void {
    this._follow();
    this.client._later(`at ${this.id}`, { type: "presence.set", conversation_id: this.id, state });
  }

  /** Share a value for the next prompts, as the next version unless given; `stale_version` when another was quicker. */
  setContext(
    key: string,
    value: unknown,
    version = (this._fold.context.get(key)?.version ?? -1) + 1,
  ): Promise<unknown> {
    this._follow();
    return this.#say("context.set", { key, version, value });
  }

  /** @internal */
  _follow(): void {
    clearTimeout(this.#grace);
    if (this._isFollowed) return;
    this._isFollowed = true;
    const kept = this.client._memory._view(this.id);
    if (kept) this._fold.replace(kept);
    this.#setStatus("opening");
    if (this.client._isLive) this._openHere();
    else this.client._want();
  }

  /** @internal What has to be asked for on each connection: by the conversation, or by a turn that runs. */
  get _segments(): wire.Segments | null | undefined {
    return this.options.segments ?? [...this._turns.values()].find((turn) => turn._segments)?._segments;
  }

  /** @internal Somebody listens to this turn. */
  _listen(turn: Turn): void {
    turn._isDetached = false;
    this._turns.set(turn.id, turn);
    this.client._memory._kept.turns[turn.id] = this.id;
    this._follow();
  }

  /** @internal Follow it on this connection. */
  _openHere(since = this._fold.cursor): void {
    const { segments: _, ...about } = this.options;
    const made = this._isKnown ? { create: false } : about;
    this.#ask({ type: "conversation.open", conversation_id: this.id, ...made, segments: this._segments, since });
  }

  /** @internal The answer to following it, however that was asked for. */
  _opened(answer: wire.ConversationOpened): void {
    if (!this._isFollowed) return;
    this._isKnown = true;
    this.#opened = answer;
    this.#present = new Map(answer.present.map((one) => [one.user_id, one]));
    if (answer.epoch !== this._fold.epoch && answer.verdict !== "snapshot") this._openHere(NOWHERE);
    else if (answer.verdict !== "snapshot") this.#caughtUp();
    this._changed();
  }

  /** @internal */
  _refused(error: TurnwireError): void {
    const { code } = error;
    if (code === "not_found" && !this._isKnown) this._openHere();
    else if (code === "not_found") this.#gone("deleted", error);
    else if (code !== "lost" && code !== "closed") this.#gone("denied", error);
  }

  /** @internal What one frame has for this conversation. */
  _receive(events: Placed[], take: Take): void {
    if (!this._isFollowed) return;
    const first = events.findIndex(({ type }) => type === "conversation.snapshot");
    try {
      // After a misfit nothing counts until a snapshot comes.
      const counted = this.#isLost ? events.slice(first < 0 ? events.length : first) : events;
      for (const some of apart(counted)) for (const event of take(this._fold, some)) this.#took(event);
    } catch (error) {
      if (!(error instanceof Misfit)) throw error;
      this.#isLost = true;
      this.#status = "opening";
      this._openHere(NOWHERE);
    }
    this._changed();
  }

  /** @internal What has no place in the log. */
  _besides(message: wire.ServerMessage): void {
    if (message.type === "presence.changed") {
      for (const one of [...message.joined, ...message.changed]) this.#present.set(one.user_id, one);
      for (const one of message.left) this.#present.delete(one.user_id);
      this._changed();
    } else if (message.type === "output_text.segment") this._turns.get(message.request_id)?._receive(message);
    else if (message.type === "conversation.deleted") this.#gone("deleted", new TurnwireError("deleted", this.id));
    else if (message.type === "notice" && message.kind === "access_revoked")
      this.#gone("denied", new TurnwireError("forbidden", this.id));
  }

  /** @internal The connection has ended: what is shown stays. */
  _lost(): void {
    this.#present.clear();
    if (this._isFollowed) this.#setStatus("opening");
  }

  /** @internal Another user has come: nothing that was known is for them. */
  _forget(): void {
    this._fold = new Fold();
    this._isKnown = false;
    for (const turn of this._turns.values()) turn._end("unsent", undefined, new TurnwireError("forbidden", this.id));
    this._changed();
  }

  /** @internal Have a turn made, now or once there is a connection. */
  _adopt(turn: Turn, command: Create, at = Date.now(), sent = false, signal?: AbortSignal): void {
    this._listen(turn);
    try {
      const [entry, answer] = this.client._post(command, at, sent);
      turn._entry = entry;
      turn._isUnseen = true;
      answer.then(
        (answer) => {
          turn._entry = undefined;
          // Of a new one the events follow. One that was there before may be over.
          if ((answer as wire.Ack).duplicate !== false && this.#status === "live") this.#look(turn);
          this._changed();
        },
        (error) => this.#handBack(turn, error),
      );
    } catch (error) {
      this.#handBack(turn, error as TurnwireError);
    }
    const abort = () => turn.cancel().catch(() => {});
    signal?.addEventListener("abort", abort);
    turn._unlisten = () => signal?.removeEventListener("abort", abort);
    if (signal?.aborted) abort();
    this._changed();
  }

  /** @internal */
  _over(turn: Turn): void {
    this._turns.delete(turn.id);
    delete this.client._memory._kept.turns[turn.id];
    this._changed();
    this._mayLeave();
  }

  /** @internal */
  _mayLeave(): void {
    clearTimeout(this.#grace);
    const isWanted =
      this.#isHeld || this.#listeners.size || [...this._turns.values()].some((turn) => !turn._isDetached);
    if (this._isFollowed && !isWanted) this.#grace = setTimeout(() => this.leave(), GRACE_MS);
  }

  /** @internal Write down what is known, if that has changed. */
  _keep(): void {
    const { seq, epoch } = this._fold;
    if (!epoch || this.#isLost || !this._isFollowed || this.#kept === seq) return;
    this.#kept = seq;
    this.client._memory._keepView(this.id, this._fold.view());
  }

  /** @internal */
  _changed(): void {
    this.#view = undefined;
    this.client._look(this);
    this.client._keepSoon();
    tell(this.#listeners, undefined);
  }

  #create(base: object, { id = newId(), signal, ...options }: SendOptions = {}): Turn {
    const command = { ...base, request_id: id, tools: this.client._offered(), ...snake(options) } as wire.RequestCreate;
    const turn = new Turn(this, id, command.input, command.segments);
    this._adopt(turn, command, undefined, false, signal);
    return turn;
  }

  #handBack(turn: Turn, error: TurnwireError): void {
    turn._end("unsent", undefined, error);
    this.client._emit("returned", turn);
  }

  #took(event: Placed): void {
    if (event.type === "conversation.snapshot") {
      this.#isLost = false;
      this._isKnown = true;
      for (const turn of this._turns.values()) if (this._fold.live.has(turn.id)) turn._restart();
      this.#caughtUp();
      return;
    }
    tell(this.#watchers, event);
    const { request_id, terminal, length } = event as TerminalEvent & { length?: number };
    const turn = this._turns.get(request_id);
    if (!turn) return;
    turn._receive(event as TerminalEvent);
    if (!terminal) return;
    const message = this.#answer(request_id);
    const { error } = event as wire.MessageFailed;
    const failure = error && new TurnwireError("failed", error.message, error.retryable, error);
    if (length === undefined || length === textOfParts(message?.parts ?? []).length)
      turn._end(endingOf(event), message, failure, false);
    else this.#read(turn, endingOf(event), message?.message_id);
  }

  /** What is known is what the server knows: turns that are not among what runs have ended, or never were. */
  #caughtUp(): void {
    this.#setStatus("live");
    for (const turn of this._turns.values()) this.#look(turn);
  }

  #look(turn: Turn): void {
    if (turn._entry || turn.isOver || this._fold.live.has(turn.id)) return;
    this.client.request({ type: "request.status", request_id: turn.id }).then(
      (answer) => {
        const { state, message_id } = answer as wire.RequestStateAnswer;
        if (!/queued|preparing|streaming|waiting/.test(state)) this.#read(turn, state, message_id);
      },
      (error) => error.code !== "closed" && this.#handBack(turn, error),
    );
  }

  /** The end of a turn that nobody has seen here. */
  async #read(turn: Turn, state: RequestState, messageId?: string): Promise<void> {
    let message = state === "completed" ? undefined : this.#answer(turn.id);
    if (messageId)
      message = await this.history({ leaf: messageId, limit: 1 }).then(
        ({ items }) => items.find((one) => one.message_id === messageId),
        () => message,
      );
    turn._restart();
    turn._end(state, message);
  }

  #answer(requestId: string): wire.Message | undefined {
    return [...this._fold.messages.values()].findLast((one) => one.role !== "user" && one.request_id === requestId);
  }

  #gone(status: "denied" | "deleted", error: TurnwireError): void {
    this.client._memory._keepView(this.id);
    this.#stop(status);
    this._isKnown = false;
    for (const turn of this._turns.values()) this.#handBack(turn, error);
  }

  #stop(status: ConversationView["status"]): void {
    this._isFollowed = this.#isHeld = this.#isLost = false;
    this._fold = new Fold();
    this.#kept = 0;
    this.#present.clear();
    this.client._laters.delete(`at ${this.id}`);
    this.#setStatus(status);
  }

  #ask(command: wire.Command): void {
    this.client._transient(command).catch((error) => this._isFollowed && this._refused(error));
  }

  // biome-ignore lint/suspicious/noExplicitAny: each command has its own answer
  #say(type: wire.Command["type"], about?: object): Promise<any> {
    return this.client.request({ type, conversation_id: this.id, ...about } as wire.Command);
  }

  #setStatus(status: ConversationView["status"]): void {
    this.#status = status;
    this._changed();
  }
}

/** Each snapshot by itself: what it shows is told before what comes after it is known. */
function apart(events: Placed[]): Placed[][] {
  const groups: Placed[][] = [[]];
  for (const event of events)
    if (event.type === "conversation.snapshot") groups.push([event], []);
    else groups.at(-1)?.push(event);
  return groups;
}
