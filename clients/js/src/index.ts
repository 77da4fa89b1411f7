// Streaming, interruptible, resumable assistants over one WebSocket.

export { Client, type ClientEvents, type ConnectOptions, connect } from "./client.js";
export type { Conversation, ConversationOptions, ConversationView, SendOptions } from "./conversation.js";
export type { SocketClass, TokenSource } from "./driver.js";
export { type Code, TurnwireError } from "./errors.js";
export { newId } from "./id.js";
export type { ClientState, Status, TokenReason } from "./machine.js";
export type { Store } from "./memory.js";
export type * as wire from "./protocol.js";
export type { Approver, CallContext, Decision, Tool } from "./tools.js";
export type { Presented, Turn, TurnResult, TurnView } from "./turn.js";
export type {
  Codec,
  Cursor,
  LogEvent,
  Part,
  RequestEvent,
  RequestState,
  TerminalEvent,
  ToolCall,
  TurnEvent,
  TurnReset,
  TurnState,
} from "./types.js";
