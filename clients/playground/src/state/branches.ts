// A conversation is a tree: an answer given anew and a message that was edited are siblings, told apart by their input.
// The client shows the newest branch; this keeps what was seen of the others, and gives the turns of any of them. Pure.

import type { ConversationView, wire } from "@turnwire/client";

export interface ShownTurn {
  id: string;
  input: wire.Message;
  answer?: wire.Message;
  /** Runs or waits. */
  active?: wire.ActiveRequest;
  /** The server has not acknowledged it yet. */
  isSending: boolean;
  /** The inputs of all branches that begin here, oldest first; this one is among them. */
  siblings: readonly wire.Message[];
  /** Requests that were folded into the answer. */
  folded: readonly { part: number; input?: wire.Message }[];
}

const place = ({ ordinal = -1, role }: wire.Message) => ordinal * 2 + (role === "user" ? 0 : 1);
const isSending = ({ role, status, ordinal }: wire.Message) =>
  role === "user" && status === "partial" && ordinal === undefined;
const byPlace = (a: wire.Message, b: wire.Message) => place(a) - place(b) || a.created_at - b.created_at;

export class Tree {
  #messages = new Map<string, wire.Message>();
  #answerIds = new Map<string, string>();

  add(messages: Iterable<wire.Message>): void {
    for (const message of messages) {
      const known = this.#messages.get(message.message_id);
      // A partial answer that comes late must not replace the whole one.
      if (!known || known.status === "partial" || message.status !== "partial")
        this.#messages.set(message.message_id, message);
    }
  }

  /** Takes in what the client shows; what is being sent has no place in the tree yet. */
  take({ messages, active }: ConversationView): void {
    this.add(messages);
    for (const { input, message, answer_id, message_id } of active) {
      this.add(message ? [input, message] : [input]);
      const answer = answer_id ?? message_id;
      if (answer) this.#answerIds.set(answer, input.message_id);
    }
  }

  /** What is to be kept for a reload. */
  all(): wire.Message[] {
    return [...this.#messages.values()].filter(({ status }) => status !== "partial");
  }

  /** The newest message below this one, or itself. */
  leafOf(id: string): string {
    for (let at = id; ; ) {
      const below = [...this.#messages.values()]
        .filter(({ parent_id }) => parent_id === at)
        .sort(byPlace)
        .at(-1);
      if (!below) return at;
      at = below.message_id;
    }
  }

  /** The turns from the beginning to `leaf`, to the newest message without one; then those that are being sent. */
  turns(view: ConversationView, leaf?: string): ShownTurn[] {
    const active = new Map(view.active.map((one) => [one.request_id, one]));
    const answers = new Map<string, wire.Message>();
    for (const message of this.#messages.values())
      if (message.role !== "user") answers.set(message.request_id, message);
    for (const { request_id, message } of view.active) if (message) answers.set(request_id, message);
    const inputs = this.#way(leaf).filter(({ role }) => role === "user");
    // A branch that was chosen stands as it is: what is being sent goes to the newest.
    const sending = leaf ? [] : view.thread.filter(isSending);
    const below = this.#below();
    const folded = new Set([...answers.values()].flatMap(({ steered = [] }) => steered.map((one) => one.request_id)));
    return [...inputs, ...sending]
      .filter(({ request_id }) => !folded.has(request_id))
      .map((input) => {
        const answer = answers.get(input.request_id);
        return {
          id: input.request_id,
          input,
          answer,
          active: active.get(input.request_id),
          isSending: sending.includes(input),
          siblings: sending.includes(input) ? [input] : siblingsOf(input, below.get(input.parent_id)),
          folded: (answer?.steered ?? []).map(({ part, request_id }) => ({ part, input: this.#inputOf(request_id) })),
        };
      });
  }

  #inputOf(requestId: string): wire.Message | undefined {
    for (const message of this.#messages.values())
      if (message.role === "user" && message.request_id === requestId) return message;
  }

  /** Inputs by what they hang below. */
  #below(): Map<string | undefined, wire.Message[]> {
    const below = new Map<string | undefined, wire.Message[]>();
    for (const message of [...this.#messages.values()].sort(byPlace))
      if (message.role === "user") below.set(message.parent_id, [...(below.get(message.parent_id) ?? []), message]);
    return below;
  }

  #way(leaf?: string): wire.Message[] {
    const newest = [...this.#messages.values()].sort(byPlace).at(-1)?.message_id;
    const way = new Set<wire.Message>();
    for (let at = leaf ?? newest; at; ) {
      const message = this.#messages.get(at) ?? this.#messages.get(this.#answerIds.get(at) ?? "");
      if (!message || way.has(message)) break;
      way.add(message);
      at = message.parent_id;
    }
    return [...way].reverse();
  }
}

/** Without a parent only those at the very beginning are siblings; a history that is cut off has others. */
const siblingsOf = (input: wire.Message, beside: wire.Message[] = [input]): wire.Message[] =>
  input.parent_id || beside.every(({ ordinal }) => ordinal !== undefined) ? beside : [input];
