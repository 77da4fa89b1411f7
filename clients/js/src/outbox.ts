// Commands that have no answer yet. They wait here while there is no connection, and again when one has ended before
// the answer: ids are idempotent, so sending twice is safe for most (the last column of the tables in SPEC). Those that
// are not safe are never sent a second time. Pure: time comes in; `client` sends what is `due`.

import { errorFrom, TurnwireError } from "./errors.js";
import { backoff } from "./machine.js";
import type { Command, ServerMessage } from "./protocol.js";

export interface Entry {
  id: string;
  command: Command;
  /** Wall-clock time of its making. */
  at: number;
  /** Whether it may have reached the server. */
  sent: boolean;
  /** Belongs to one connection and ends with it. */
  transient: boolean;
  /** Bytes, as JSON. */
  size: number;
  underWay: boolean;
  dueAt: number;
  tries: number;
  resolve(answer: ServerMessage): void;
  reject(error: TurnwireError): void;
}

export interface Limits {
  entries: number;
  bytes: number;
}

const TRIES = 8;
/** Refusals of the moment. `busy` is one too, but it is what the caller has asked to be told. */
const PASSING = /rate_limited|overloaded|unavailable|unauthenticated/;
const NEVER = Number.POSITIVE_INFINITY;

export const isRepeatable = (command: Command) =>
  command.type !== "conversation.delete" &&
  (command.type !== "request.interrupt" || !/tentative|retracted/.test(command.phase ?? ""));

export class Outbox {
  readonly entries = new Map<string, Entry>();
  #last = 0;
  #bytes = 0;

  constructor(
    private readonly limits: Limits,
    private readonly random: () => number,
  ) {}

  /** Throws `queue_full`. */
  add(command: Command, at: number, sent = false, transient = false): [Entry, Promise<ServerMessage>] {
    const size = new TextEncoder().encode(JSON.stringify(command)).length;
    const { entries, limits } = this;
    if (entries.size >= limits.entries || this.#bytes + size > limits.bytes)
      throw new TurnwireError("queue_full", `${entries.size} commands wait already`, true);
    const id = `c${++this.#last}`;
    const entry = { id, command, at, sent, transient, size, underWay: false, dueAt: 0, tries: 0 } as Entry;
    const answer = new Promise<ServerMessage>((resolve, reject) => Object.assign(entry, { resolve, reject }));
    entries.set(id, entry);
    this.#bytes += size;
    return [entry, answer];
  }

  /**
   * What is to be sent now. Following goes before all else, so that nothing is missed; then cancels: one that overtakes
   * its request keeps it from being run at all.
   */
  due(now: number): Entry[] {
    const due = [...this.entries.values()].filter(({ underWay, dueAt }) => !underWay && dueAt <= now);
    const order = ({ command, transient }: Entry) => (transient ? 0 : command.type === "request.cancel" ? 1 : 2);
    return due.sort((a, b) => order(a) - order(b));
  }

  nextTimer(): number {
    return Math.min(...[...this.entries.values()].map(({ underWay, dueAt }) => (underWay ? NEVER : dueAt)));
  }

  drop(entry: Entry, error?: TurnwireError): void {
    if (!this.entries.delete(entry.id)) return;
    this.#bytes -= entry.size;
    if (error) entry.reject(error);
  }

  /** The answer to one of them; false when it is to none. */
  answered(message: ServerMessage & { ref?: string }, now: number): boolean {
    const entry = this.entries.get(message.ref as string);
    if (!entry) return false;
    if (message.type !== "error") {
      this.drop(entry);
      entry.resolve(message);
    } else if (PASSING.test(message.code) && entry.tries < TRIES && isRepeatable(entry.command)) {
      entry.underWay = false;
      entry.dueAt = now + (message.retry_after_ms ?? backoff(entry.tries, this.random));
      entry.tries += 1;
    } else this.drop(entry, errorFrom(message));
    return true;
  }

  /** The connection has ended. */
  lost(): void {
    for (const entry of this.entries.values()) {
      const isOver = entry.transient || (entry.underWay && !isRepeatable(entry.command));
      if (isOver) this.drop(entry, new TurnwireError("lost", "the connection ended before the answer", true));
      entry.underWay = false;
      entry.dueAt = 0;
    }
  }

  /** Nobody is going to answer any more. */
  fail(error: TurnwireError): void {
    for (const entry of this.entries.values()) this.drop(entry, error);
  }
}
