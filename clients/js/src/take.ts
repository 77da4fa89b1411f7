// Frames in: what they change of what is known (SPEC sections 3 and 10). Pure, and the same for everybody who has seen
// the same log; the Python package has it too, and `protocol/vectors` binds both. `partial` has the single request.

import type { Fold } from "./fold.js";
import { answerOf, type Live, Misfit } from "./live.js";
import { apply, created, isKnown } from "./partial.js";
import type * as wire from "./protocol.js";
import { endingOf, type LogEvent, type Placed, type TerminalEvent } from "./types.js";

/** Messages kept of a conversation that is followed for long; `before` then leads to those let go. */
const MOST_MESSAGES = 500;

/**
 * Takes in what one frame has for this conversation and gives what counted, in order. What lies at or below the cursor
 * does not. Throws a `Misfit`; what is known is then good for nothing until a snapshot comes.
 */
export function take(fold: Fold, frame: readonly Placed[]): Placed[] {
  const taken: Placed[] = [];
  let fresh: LogEvent[] = [];
  const cover = () => {
    takeEvents(fold, fresh);
    taken.push(...fresh);
    fresh = [];
  };
  for (const event of frame)
    if (event.type === "conversation.snapshot") {
      cover();
      fold.replace(event);
      taken.push(event);
    } else if (event.seq > fold.seq) fresh.push(event);
  cover();
  return taken;
}

function takeEvents(fold: Fold, fresh: readonly LogEvent[]): void {
  let next = fold.seq + 1;
  const spans = fresh.map(({ from_seq, seq }) => [from_seq ?? seq, seq] as const);
  for (const [first, last] of spans.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (first > next) throw new Misfit("sequence_gap");
    next = Math.max(next, last + 1);
  }
  for (const event of fresh) takeEvent(fold, event);
  fold.seq = next - 1;
}

function takeEvent(fold: Fold, event: LogEvent): void {
  const { live, messages, context } = fold;
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
    if (terminal) end(fold, after, event as TerminalEvent);
  }
  if (!event.type.endsWith("delta")) fold._branch = undefined;
}

function end(fold: Fold, live: Live, event: TerminalEvent): void {
  fold.live.delete(live.request_id);
  const { message, length } = event as { message?: wire.Message; length?: number };
  // Left out because it is too large; what was streamed is the same text.
  const answer = message ?? (length === undefined ? undefined : answerOf(live, statusOf(event)));
  for (const one of [live.input, answer]) if (one) fold.messages.set(one.message_id, one);
  if (fold.messages.size > MOST_MESSAGES) {
    fold._branch = undefined;
    const kept = fold.branch().slice(-MOST_MESSAGES / 2);
    fold.messages = new Map(kept.map((one) => [one.message_id, one]));
    fold.before = kept[0]?.message_id;
  }
}

const statusOf = (event: TerminalEvent) => {
  const state = endingOf(event);
  return (/completed|merged/.test(state) ? "complete" : state) as wire.Message["status"];
};
