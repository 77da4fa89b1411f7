// What the events of a conversation add up to (SPEC sections 3 and 10): frames in, state out. Pure, and the same for
// everybody who has seen the same log; the Python package has it too, and `protocol/vectors` binds both. Messages and
// requests are never changed in place. `conversation` is above, `partial` has the single request.

import { answerOf, apply, created, fromActive, isKnown, type Live, Misfit, toActive } from "./partial.js";
import type * as wire from "./protocol.js";
import type { LogEvent, Placed, RequestState, TerminalEvent } from "./types.js";

/** Messages kept of a conversation that is followed for long; `before` then leads to those let go. */
const MOST_MESSAGES = 500;

export interface View {
  epoch: string;
  seq: number;
  messages: wire.Message[];
  active: wire.ActiveRequest[];
  context?: wire.ContextEntry[];
  before?: string;
}

export class Fold {
  epoch = "";
  seq = 0;
  /** The `before` of the page with older messages than these. */
  before: string | undefined;
  /** What has ended, on any branch that was seen. */
  messages = new Map<string, wire.Message>();
  live = new Map<string, Live>();
  context = new Map<string, wire.ContextEntry>();
  #branch: wire.Message[] | undefined;
  #active = new WeakMap<Live, wire.ActiveRequest>();

  get cursor() {
    return this.epoch ? { epoch: this.epoch, seq: this.seq } : undefined;
  }

  /** A snapshot, or a `view` of before: it replaces everything. */
  replace({ epoch, seq, before, messages, active, context }: View): void {
    this.epoch = epoch;
    this.seq = seq;
    this.before = before;
    this.messages = new Map(messages.map((message) => [message.message_id, message]));
    this.live = new Map(active.map((one) => [one.request_id, fromActive(one)]));
    this.context = new Map(context?.map((entry) => [entry.key, entry]));
    this.#branch = undefined;
  }

  /**
   * Takes in what one frame has for this conversation and gives what counted, in order. What lies at or below the
   * cursor does not. Throws a `Misfit`; what is known is then good for nothing until a snapshot comes.
   */
  take(frame: readonly Placed[]): Placed[] {
    const taken: Placed[] = [];
    let fresh: LogEvent[] = [];
    const fold = () => {
      this.#cover(fresh);
      taken.push(...fresh);
      fresh = [];
    };
    for (const event of frame)
      if (event.type === "conversation.snapshot") {
        fold();
        this.replace(event);
        taken.push(event);
      } else if (event.seq > this.seq) fresh.push(event);
    fold();
    return taken;
  }

  /** Older messages, from a page of `conversation.history`. */
  prepend({ items, next }: { items: wire.Message[]; next?: string }): void {
    for (const message of items) this.messages.set(message.message_id, message);
    this.before = next;
    this.#branch = undefined;
  }

  view(): View {
    const { epoch, seq, before, context } = this;
    const shared = [...context.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
    return {
      epoch,
      seq,
      messages: this.branch(),
      active: [...this.live.values()].sort((a, b) => place(a.input) - place(b.input)).map((live) => this.active(live)),
      context: shared.length ? shared : undefined,
      before,
    };
  }

  active(live: Live): wire.ActiveRequest {
    const known = this.#active.get(live) ?? toActive(live);
    this.#active.set(live, known);
    return known;
  }

  /** The finished messages from the beginning to the newest leaf. The inputs of live requests are leaves as well. */
  branch(): wire.Message[] {
    this.#branch ??= this.#walk();
    return this.#branch;
  }

  #cover(fresh: readonly LogEvent[]): void {
    let next = this.seq + 1;
    const spans = fresh.map(({ from_seq, seq }) => [from_seq ?? seq, seq] as const);
    for (const [first, last] of spans.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
      if (first > next) throw new Misfit("sequence_gap");
      next = Math.max(next, last + 1);
    }
    for (const event of fresh) this.#fold(event);
    this.seq = next - 1;
  }

  #fold(event: LogEvent): void {
    const { live, messages, context } = this;
    if (event.type === "message.created") live.set(event.request_id, created(event));
    else if (event.type === "message.amended") {
      if (messages.has(event.message_id)) messages.set(event.message_id, event.message);
    } else if (event.type === "context.changed") {
      const { key, version, value, by } = event;
      // An older one may come after a newer one, when two were set at once.
      if (!((context.get(key)?.version ?? -1) >= version))
        context.set(key, { key, version, value: value ?? undefined, by });
    } else if (isKnown(event)) {
      const { request_id, terminal } = event as TerminalEvent;
      const before = live.get(request_id);
      if (!before) throw new Misfit("unknown_request");
      const after = apply(before, event);
      live.set(request_id, after);
      if (terminal) this.#end(after, event as TerminalEvent);
    }
    if (!event.type.endsWith("delta")) this.#branch = undefined;
  }

  #end(live: Live, event: TerminalEvent): void {
    this.live.delete(live.request_id);
    const { message, length } = event as { message?: wire.Message; length?: number };
    // Left out because it is too large; what was streamed is the same text.
    const answer = message ?? (length === undefined ? undefined : answerOf(live, statusOf(endingOf(event))));
    for (const one of [live.input, answer]) if (one) this.messages.set(one.message_id, one);
    if (this.messages.size > MOST_MESSAGES) {
      this.#branch = undefined;
      const kept = this.branch().slice(-MOST_MESSAGES / 2);
      this.messages = new Map(kept.map((one) => [one.message_id, one]));
      this.before = kept[0]?.message_id;
    }
  }

  #walk(): wire.Message[] {
    const inputs = new Map<string, wire.Message>();
    // A live answer is a link between an input that waits behind it and what was before.
    const links = new Map<string | undefined, string>();
    for (const { input, answer_id, message_id } of this.live.values()) {
      inputs.set(input.message_id, input);
      links.set(answer_id ?? message_id, input.message_id);
    }
    let newest: wire.Message | undefined;
    for (const message of [...this.messages.values(), ...inputs.values()])
      if (!newest || place(message) > place(newest)) newest = message;
    const way = new Set<wire.Message>();
    let at = newest?.message_id;
    while (at) {
      const ended = this.messages.get(at);
      if (ended && way.has(ended)) break;
      if (ended) way.add(ended);
      const message = ended ?? inputs.get(at);
      at = message ? message.parent_id : links.get(at);
    }
    return [...way].reverse();
  }
}

/** Sorts messages: by the ordinal of their request, the user's before the answer. */
const place = ({ ordinal = -1, role }: wire.Message) => ordinal * 2 + (role === "user" ? 0 : 1);

/** The state that a terminal event brings. */
export const endingOf = (event: { type: string }) => event.type.slice(8) as RequestState;

const statusOf = (state: RequestState) =>
  (/completed|merged/.test(state) ? "complete" : state) as wire.Message["status"];
