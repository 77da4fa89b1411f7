// What becomes of the commands in the outbox. Ids are idempotent, so sending twice is safe for most (the last column of the
// tables in SPEC); those that are not safe are never sent a second time. Pure: time and chance come in.

import { backoff } from "./backoff.js";
import { errorFrom, TurnwireError } from "./errors.js";
import type { Entry, Outbox } from "./outbox.js";
import type { Command, ServerMessage } from "./protocol.js";

const TRIES = 8;
/** Refusals of the moment. `busy` is one too, but it is what the caller has asked to be told. */
const PASSING = /rate_limited|overloaded|unavailable|unauthenticated/;

export const isRepeatable = (command: Command) =>
  command.type !== "conversation.delete" &&
  (command.type !== "request.interrupt" || !/tentative|retracted/.test(command.phase ?? ""));

/**
 * What is to be sent now. Following goes before all else, so that nothing is missed; then cancels: one that overtakes its
 * request keeps it from being run at all.
 */
export function due({ entries }: Outbox, now: number): Entry[] {
  const due = [...entries.values()].filter(({ underWay, dueAt }) => !underWay && dueAt <= now);
  const order = ({ command, transient }: Entry) => (transient ? 0 : command.type === "request.cancel" ? 1 : 2);
  return due.sort((a, b) => order(a) - order(b));
}

/** When something is due next. */
export const nextDue = ({ entries }: Outbox): number =>
  Math.min(...[...entries.values()].map(({ underWay, dueAt }) => (underWay ? Number.POSITIVE_INFINITY : dueAt)));

/** The answer to one of them; false when it is to none. */
export function answered(
  outbox: Outbox,
  message: ServerMessage & { ref?: string },
  now: number,
  random = Math.random,
): boolean {
  const entry = outbox.entries.get(message.ref as string);
  if (!entry) return false;
  if (message.type !== "error") {
    outbox.drop(entry);
    entry.resolve(message);
  } else if (PASSING.test(message.code) && entry.tries < TRIES && isRepeatable(entry.command)) {
    entry.underWay = false;
    entry.dueAt = now + (message.retry_after_ms ?? backoff(entry.tries, random));
    entry.tries += 1;
  } else outbox.drop(entry, errorFrom(message));
  return true;
}

/** The connection has ended. */
export function lost(outbox: Outbox): void {
  for (const entry of outbox.entries.values()) {
    const isOver = entry.transient || (entry.underWay && !isRepeatable(entry.command));
    if (isOver) outbox.drop(entry, new TurnwireError("lost", "the connection ended before the answer", true));
    entry.underWay = false;
    entry.dueAt = 0;
  }
}
