// Names for groups of wire types, and the few types of this package that several files share.

import type * as wire from "./protocol.js";

/** An event that is about one request, as the log has it. */
export type RequestEvent = Extract<wire.ServerMessage, { seq: number; request_id: string; ts: number }>;
/** An event of the log. */
export type LogEvent = Extract<wire.ServerMessage, { seq: number; ts: number }>;
/** The last event of a request. */
export type TerminalEvent = Extract<RequestEvent, { terminal: true }>;
export type RequestState = wire.RequestStateAnswer["state"];
export type Part = wire.Message["parts"][number];
export type ToolCall = wire.ToolCallPart;
export type Cursor = { epoch: string; seq: number };
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** What a turn's `state` may say besides the server's words: not acknowledged yet, or handed back without being run. */
export type TurnState = RequestState | "sending" | "unsent";

/**
 * What the reader of a turn gets in place of events that it did not see one by one: everything so far. It replaces
 * what the reader has built. Comes first when reading begins in mid-answer, and after a snapshot.
 */
export interface TurnReset {
  type: "turn.reset";
  request_id: string;
  state: TurnState;
  text: string;
  parts: readonly Part[];
}
/** What has a place in a conversation. */
export type Placed = LogEvent | wire.ConversationSnapshot;
export type TurnEvent = RequestEvent | wire.OutputTextSegment | TurnReset;

/** Frames in, frames out. `protocol` is the WebSocket subprotocol. */
export interface Codec {
  protocol: string;
  encode(message: wire.Command): string | Uint8Array<ArrayBuffer>;
  /** The messages of one frame. Throws when the frame cannot be read. */
  decode(data: string | ArrayBuffer): wire.ServerMessage[];
}

/** The state that a terminal event brings. */
export const endingOf = (event: { type: string }) => event.type.slice("message.".length) as RequestState;
