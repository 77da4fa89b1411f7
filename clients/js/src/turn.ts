// One turn as the application holds it: its id from the first moment, what it has said so far, its events to read, and
// the ways to stop it. The conversation gives it what comes; leaving it alone never stops it.

import type { Conversation } from "./conversation.js";
import type { TurnwireError } from "./errors.js";
import { answerOf, textOfParts } from "./live.js";
import type { Entry } from "./outbox.js";
import type * as wire from "./protocol.js";
import type { Part, RequestState, TurnEvent, TurnState } from "./types.js";

/** How far the user has seen or heard: an offset in `text`, a place in a part, or the words themselves. */
export type Presented = number | wire.PresentedAt | wire.PresentedText;

export interface TurnView {
  state: TurnState;
  /** The text of the answer so far. */
  text: string;
  parts: readonly Part[];
  /** The answer; absent before it has begun. */
  message?: wire.Message;
  /** Why it was handed back (`state` is `unsent`), or why it failed. */
  error?: TurnwireError;
}

export interface TurnResult extends TurnView {
  state: RequestState;
}

interface Reader {
  /** Undefined is the place of a reset, which is made when it is read: it then has all that came until then. */
  waiting: (TurnEvent | undefined)[];
  wake(): void;
  isOver: boolean;
}

/** Events that wait for a reader that does not read; past that it gets one `turn.reset`, which loses no text. */
const MOST_WAITING = 500;

/** What a reset does not stand for. */
const isBesides = (event: TurnEvent | undefined) =>
  event && (event.type === "output_text.segment" || "terminal" in event);

export class Turn implements AsyncIterable<TurnEvent> {
  /** @internal The command that makes it, as long as it has no `ack`. */
  _entry: Entry | undefined;
  /** @internal The log has not told of it yet. */
  _isUnseen = false;
  /** @internal Nobody listens: it is no reason to follow the conversation. */
  _isDetached = false;
  /** @internal */
  _unlisten: (() => void) | undefined;
  #ended: (Pick<TurnView, "message" | "error"> & { state: RequestState | "unsent" }) | undefined;
  #readers = new Set<Reader>();
  #waiters: (() => void)[] = [];
  /** Nothing more comes for whoever reads. With segments that is later than its end. */
  #isClosed = false;
  #isSpoken = false;
  #view: [unknown, TurnView] | undefined;
  /** Up to where segments were given. */
  #spoken: [part: number, end: number] = [0, 0];

  constructor(
    readonly conversation: Conversation,
    readonly id: string,
    /** What was said, when this client knows it. */
    readonly input?: wire.RequestCreate["input"],
    /** @internal Asked for again on each connection. */
    readonly _segments?: wire.Segments | null,
  ) {}

  get state(): TurnState {
    return this.view.state;
  }

  get text(): string {
    return this.view.text;
  }

  get parts(): readonly Part[] {
    return this.view.parts;
  }

  get error(): TurnwireError | undefined {
    return this.view.error;
  }

  /** It has ended, or was handed back. */
  get isOver(): boolean {
    return this.#ended !== undefined;
  }

  /** All of it at once; the same object until something changes. */
  get view(): TurnView {
    const live = this.conversation._fold.live.get(this.id);
    const of = this.#ended ?? live ?? this._entry;
    if (!this.#view || this.#view[0] !== of) {
      const { state, message, error } = this.#ended ?? {
        state: live?.state ?? (this._entry ? "sending" : "preparing"),
        message: live && answerOf(live),
        error: undefined,
      };
      const parts = message?.parts ?? [];
      this.#view = [of, { state, message, error, parts, text: textOfParts(parts) }];
    }
    return this.#view[1];
  }

  /** Its end, however it ends. Rejects when it was handed back without being run. */
  async result(): Promise<TurnResult> {
    if (!this.#ended) {
      this.conversation._listen(this);
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    if (this.state === "unsent") throw this.error;
    return this.view as TurnResult;
  }

  /** Leaving the loop leaves the turn alone: it goes on. Reading may begin at any time and any number of times. */
  async *[Symbol.asyncIterator](): AsyncGenerator<TurnEvent, void, void> {
    const waiting = this.#ended || this.parts.length ? [undefined] : [];
    const reader: Reader = { waiting, wake() {}, isOver: this.#isClosed };
    this.#readers.add(reader);
    if (!this.#ended) this.conversation._listen(this);
    try {
      for (;;) {
        while (reader.waiting.length) yield reader.waiting.shift() ?? this.#reset();
        if (reader.isOver) break;
        await new Promise<void>((resolve) => {
          reader.wake = resolve;
        });
      }
      if (this.state === "unsent") throw this.error;
    } finally {
      this.#readers.delete(reader);
    }
  }

  /** Stop it. Works before the server knows of it, and while there is no connection. Gives the server's `outcome`. */
  async cancel(reason?: string): Promise<string | undefined> {
    if (this.#ended) return "already_terminal";
    if (!this._entry || this._entry.sent) return this.#say("request.cancel", { reason });
    this.conversation.client._withdraw(this._entry);
    this._end("cancelled");
    return "cancelling";
  }

  /** The user has cut in: end it, and keep of it what was presented. `tentative` holds it back for the moment. */
  interrupt({ presented, phase }: { presented?: Presented; phase?: wire.RequestInterrupt["phase"] } = {}) {
    return this.#say("request.interrupt", {
      phase,
      presented: presented === undefined ? presented : this.#place(presented),
    });
  }

  /** Tell how far the user has seen or heard it. Only the newest report is sent. */
  presented(to: number | wire.PresentedAt): void {
    this.conversation.client._later(`said ${this.id}`, {
      type: "request.presented",
      request_id: this.id,
      ...this.#place(to),
    } as wire.RequestPresented);
  }

  /** Stop listening. It goes on; `conversation.turn(id)` takes it up again. */
  detach(): void {
    for (const reader of this.#readers) {
      reader.waiting = [];
      reader.isOver = true;
      reader.wake();
    }
    this._isDetached = true;
    this.conversation._mayLeave();
  }

  approve(callId: string, args?: Record<string, unknown>) {
    return this.#say("tool.approve", { call_id: callId, arguments: args });
  }

  deny(callId: string, reason?: string) {
    return this.#say("tool.deny", { call_id: callId, reason });
  }

  cancelTool(callId: string) {
    return this.#say("tool.cancel", { call_id: callId });
  }

  /** What a person thinks of it: −5 to 5. */
  rate(rating: number, comment?: string) {
    return this.#say("feedback.create", { rating, comment });
  }

  /** @internal */
  _receive(event: TurnEvent): void {
    this._isUnseen = false;
    const heard = event.type === "output_text.segment" ? this.#unspoken(event) : event;
    if (event.type === "part.reset" && isBelow([event.part, event.offset], this.#spoken))
      this.#spoken = [event.part, event.offset];
    for (const { waiting, wake } of heard ? this.#readers : []) {
      if (!waiting.includes(undefined) || isBesides(heard)) waiting.push(heard);
      if (waiting.length > MOST_WAITING) waiting.splice(0, waiting.length, undefined, ...waiting.filter(isBesides));
      wake();
    }
    this.#isSpoken ||= event.type === "output_text.segment" && event.last;
    if (this.#ended && this.#isSpoken) this.#close();
  }

  /** @internal What was read one by one has been replaced. */
  _restart(): void {
    for (const { waiting, wake } of this.#readers) {
      waiting.splice(0, waiting.length, undefined, ...waiting.filter(isBesides));
      wake();
    }
  }

  /** @internal `isSilent`: no segments come any more. */
  _end(state: RequestState | "unsent", message?: wire.Message, error?: TurnwireError, isSilent = true): void {
    if (this.#ended) return;
    this.#ended = { state, message, error };
    this._isUnseen = false;
    this._entry = undefined;
    this._unlisten?.();
    for (const resolve of this.#waiters) resolve();
    const isSpeaking = this.text && this.conversation._segments && !/cancelled|interrupted/.test(state);
    if (isSilent || this.#isSpoken || !isSpeaking) this.#close();
    else this.conversation._changed();
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const reader of this.#readers) {
      reader.isOver = true;
      reader.wake();
    }
    this.conversation._over(this);
  }

  #reset(): TurnEvent {
    const { state, text, parts } = this.view;
    return { type: "turn.reset", request_id: this.id, state, text, parts };
  }

  #place(presented: Presented): wire.PresentedAt | wire.PresentedText {
    if (typeof presented !== "number") return presented;
    let left = presented;
    let place = { part: 0, offset: 0 };
    for (const [part, one] of this.parts.entries())
      if (one.kind === "text" && left > 0) {
        place = { part, offset: Math.min(left, one.text.length) };
        left -= one.text.length;
      }
    return place;
  }

  /** A segment without what was given of it before a connection was lost. */
  #unspoken(segment: wire.OutputTextSegment): wire.OutputTextSegment | undefined {
    const { part, start, end, text, last } = segment;
    const from = isBelow([part, start], this.#spoken)
      ? part < this.#spoken[0]
        ? end
        : Math.min(this.#spoken[1], end)
      : start;
    if (from === end && text && !last) return undefined;
    if (isBelow(this.#spoken, [part, end])) this.#spoken = [part, end];
    return { ...segment, start: from, text: text.slice(from - start) };
  }

  async #say(type: wire.Command["type"], about: object): Promise<string | undefined> {
    return (
      (await this.conversation.client.request({ type, request_id: this.id, ...about } as wire.Command)) as wire.Ack
    ).outcome;
  }
}

const isBelow = (a: readonly [number, number], b: readonly [number, number]) =>
  a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
