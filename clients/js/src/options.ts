// What an application says about a conversation and its turns, and what it sees of it.

import type * as wire from "./protocol.js";

export interface SendOptions {
  /** The request's id; a UUID when absent. */
  id?: string;
  /** When a turn is running already. */
  onBusy?: wire.RequestCreate["on_busy"];
  /** The turn to steer. */
  target?: string;
  /** What the server does when all of this user's clients have gone. */
  onDisconnect?: wire.RequestCreate["on_disconnect"];
  /** Nobody waits for the answer: what fails is tried again, later. */
  background?: boolean;
  /** The message to hang this below; null for the conversation's beginning. */
  parentId?: string | null;
  route?: string;
  /** Data for the prompts of this turn alone. */
  context?: Record<string, unknown>;
  /** What the tenant's prompt is to be filled in with. */
  variables?: Record<string, string>;
  /** The text once more, in whole sentences or clauses. */
  segments?: wire.Segments;
  metadata?: Record<string, unknown>;
  /** Aborting cancels the turn. */
  signal?: AbortSignal;
}

export interface ConversationOptions {
  title?: string;
  metadata?: Record<string, unknown>;
  visibility?: "private" | "tenant";
  /** The text of all answers once more, in whole sentences or clauses. */
  segments?: wire.Segments;
}

export interface ConversationView {
  /** `opening`: not caught up with the server. */
  status: "idle" | "opening" | "live" | "denied" | "deleted";
  /** What has ended, oldest first. */
  messages: readonly wire.Message[];
  /** What runs or waits. */
  active: readonly wire.ActiveRequest[];
  /** All there is to show, in order: `messages`, then inputs and answers of `active`, then what is being sent. */
  thread: readonly wire.Message[];
  /** Whether `loadOlder` has something to load. */
  hasOlder: boolean;
  context: Readonly<Record<string, wire.ContextEntry>>;
  present: readonly wire.Presence[];
  members: readonly wire.Member[];
  role?: wire.ConversationOpened["role"];
}
