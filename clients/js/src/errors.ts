// The one kind of error that callers get.

import type { ErrorCode, ErrorMessage } from "./protocol.js";

/**
 * The server's codes, and those of this package: `lost`: the connection ended before the answer, and whether the command
 * was carried out is not known. `queue_full`: too much waits already. `stale`: waited too long to be sent unasked.
 * `closed`: the client is closed. `deleted`: the conversation is gone. `failed`: the turn ended so.
 */
export type Code = ErrorCode | "lost" | "queue_full" | "stale" | "closed" | "deleted" | "failed";

export class TurnwireError extends Error {
  override name = "TurnwireError";

  constructor(
    readonly code: Code,
    message: string,
    readonly retryable = false,
    readonly details?: unknown,
  ) {
    super(message);
  }
}

export const errorFrom = ({ code, message, retryable, details }: ErrorMessage) =>
  new TurnwireError(code, message, retryable, details);

/** Call them all. What one of them throws is its own affair, and shown where programmers look. */
export const tell = <About>(listeners: Iterable<(about: About) => unknown>, about: About) => {
  for (const listener of [...listeners])
    try {
      listener(about);
    } catch (error) {
      console.error(error);
    }
};
