// Commands that have no answer yet, and room for more of them. They wait here while there is no connection, and again when
// one has ended before the answer. What becomes of them then is in `delivery`, which is loaded with the first connection.

import { TurnwireError } from "./errors.js";
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

export class Outbox {
  readonly entries = new Map<string, Entry>();
  #last = 0;
  #bytes = 0;

  constructor(private readonly limits: Limits) {}

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

  drop(entry: Entry, error?: TurnwireError): void {
    if (!this.entries.delete(entry.id)) return;
    this.#bytes -= entry.size;
    if (error) entry.reject(error);
  }

  /** Nobody is going to answer any more. */
  fail(error: TurnwireError): void {
    for (const entry of this.entries.values()) this.drop(entry, error);
  }
}
