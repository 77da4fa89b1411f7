// What the events of a conversation have added up to (SPEC section 10), and how it is shown. Pure. Messages and requests
// are never changed in place. `conversation` is above; how events come in is in `take`, which is loaded with the first
// connection.

import { fromActive, type Live, toActive } from "./live.js";
import type * as wire from "./protocol.js";

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
  /** Undefined when it has to be found anew. */
  _branch: wire.Message[] | undefined;
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
    this._branch = undefined;
  }

  /** Older messages, from a page of `conversation.history`. */
  prepend({ items, next }: { items: wire.Message[]; next?: string }): void {
    for (const message of items) this.messages.set(message.message_id, message);
    this.before = next;
    this._branch = undefined;
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
    this._branch ??= this.#walk();
    return this._branch;
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
