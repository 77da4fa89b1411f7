// Made from protocol/schema by `npm run types`; a check fails when it is stale. Do not edit.
/* biome-ignore-all format: generated */
export type Command =
  | Hello
  | AuthRefresh
  | Ping
  | ConversationOpen
  | ConversationLeave
  | ConversationList
  | ConversationHistory
  | ConversationShare
  | ConversationDelete
  | RequestCreate
  | RequestResume
  | RequestStatus
  | RequestCancel
  | RequestInterrupt
  | RequestPresented
  | RequestRegenerate
  | FeedbackCreate
  | ToolClaim
  | ToolResult
  | ToolApprove
  | ToolDeny
  | ToolCancel
  | PresenceSet
  | ContextSet;
export type ServerMessage =
  | MessageCreated
  | RequestQueued
  | RequestDelayed
  | MessageStarted
  | RouteChosen
  | RetrievalStarted
  | RetrievalCompleted
  | RetrievalFailed
  | StepStarted
  | StepFailed
  | ValidationFailed
  | OutputTextDelta
  | ReasoningDelta
  | PartReset
  | ToolStarted
  | ToolArgumentsDelta
  | ToolCalled
  | ToolRunning
  | ToolProgress
  | ToolApprovalRequired
  | ToolApproved
  | ToolDenied
  | ToolCompleted
  | ToolFailed
  | SteerApplied
  | UsageCompleted
  | MessageCompleted
  | MessageCancelled
  | MessageInterrupted
  | MessageMerged
  | MessageIncomplete
  | MessageFailed
  | MessageAmended
  | MemberChanged
  | ContextChanged
  | Welcome
  | Pong
  | Ack
  | ErrorMessage
  | ConversationOpened
  | ConversationPage
  | ConversationMessages
  | RequestResumed
  | RequestStateAnswer
  | ConversationSnapshot
  | ConversationDeleted
  | PresenceChanged
  | RateLimitsUpdated
  | Notice
  | GoAway
  | OutputTextSegment;
/**
 * The `code` of an `error`.
 */
export type ErrorCode =
  | "bad_frame"
  | "bad_command"
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "idempotency_conflict"
  | "already_settled"
  | "stale_version"
  | "busy"
  | "invalid_state"
  | "too_large"
  | "rate_limited"
  | "quota_exceeded"
  | "overloaded"
  | "unavailable"
  | "internal";

export interface Protocol {
  command?: Command;
  event?: ServerMessage;
}
export interface Hello {
  id?: string | null;
  type: "hello";
  token?: string | null;
  client?: ClientInfo | null;
  resume?: ResumeEntry[];
  traceparent?: string | null;
}
export interface ClientInfo {
  name?: string | null;
  version?: string | null;
  instance_id?: string | null;
}
/**
 * Exactly one of the two ids.
 */
export interface ResumeEntry {
  conversation_id?: string | null;
  request_id?: string | null;
  since?: {
    epoch: string;
    seq: number;
  } | null;
}
export interface AuthRefresh {
  id?: string | null;
  type: "auth.refresh";
  token: string;
}
export interface Ping {
  id?: string | null;
  type: "ping";
}
export interface ConversationOpen {
  id?: string | null;
  type: "conversation.open";
  conversation_id: string;
  since?: {
    epoch: string;
    seq: number;
  } | null;
  create?: boolean;
  title?: string | null;
  metadata?: {
    [k: string]: unknown;
  } | null;
  visibility?: ("private" | "tenant") | null;
  segments?: Segments | null;
}
/**
 * The text of answers once more, in whole sentences or clauses (SPEC section 5).
 */
export interface Segments {
  unit: "sentence" | "clause";
  first_min_chars?: number | null;
  max_hold_ms?: number | null;
}
export interface ConversationLeave {
  id?: string | null;
  type: "conversation.leave";
  conversation_id: string;
}
export interface ConversationList {
  id?: string | null;
  type: "conversation.list";
  limit?: number | null;
  before?: string | null;
}
export interface ConversationHistory {
  id?: string | null;
  type: "conversation.history";
  conversation_id: string;
  limit?: number | null;
  before?: string | null;
  leaf?: string | null;
}
/**
 * `role` must be there; null takes the user's role away.
 */
export interface ConversationShare {
  id?: string | null;
  type: "conversation.share";
  conversation_id: string;
  user_id: string;
  role: ("viewer" | "editor" | "owner") | null;
}
export interface ConversationDelete {
  id?: string | null;
  type: "conversation.delete";
  conversation_id: string;
}
/**
 * `parent_id` absent means the conversation's head, an explicit null the beginning (a new first message).
 */
export interface RequestCreate {
  id?: string | null;
  request_id: string;
  on_busy?: "queue" | "reject" | "interrupt" | "steer" | "parallel";
  target?: string | null;
  on_disconnect?: "continue" | "cancel";
  background?: boolean;
  route?: string | null;
  tools?: ClientTool[] | null;
  context?: {
    [k: string]: unknown;
  } | null;
  variables?: {
    [k: string]: string;
  } | null;
  segments?: Segments | null;
  since?: {
    epoch: string;
    seq: number;
  } | null;
  metadata?: {
    [k: string]: unknown;
  } | null;
  traceparent?: string | null;
  type: "request.create";
  conversation_id: string;
  input: string | InputText[];
  parent_id?: string | null;
}
/**
 * A tool that a client of the author runs. `parameters` is a JSON Schema of an object.
 */
export interface ClientTool {
  name: string;
  description: string;
  parameters: {
    [k: string]: unknown;
  };
  side_effect?: boolean;
  interruptible?: boolean;
  idempotent?: boolean;
  approval?: "required" | null;
  approval_timeout_s?: number | null;
}
/**
 * The only kind of part that a user's input has in this version.
 */
export interface InputText {
  kind: "text";
  text: string;
}
export interface RequestResume {
  id?: string | null;
  type: "request.resume";
  request_id: string;
  since?: {
    epoch: string;
    seq: number;
  } | null;
}
export interface RequestStatus {
  id?: string | null;
  type: "request.status";
  request_id: string;
}
export interface RequestCancel {
  id?: string | null;
  type: "request.cancel";
  request_id: string;
  reason?: string | null;
}
export interface RequestInterrupt {
  id?: string | null;
  type: "request.interrupt";
  request_id: string;
  phase?: "confirmed" | "tentative" | "retracted";
  presented?: (PresentedAt | PresentedText) | null;
}
/**
 * The user has seen or heard what comes before `offset` of `part`.
 */
export interface PresentedAt {
  part: number;
  offset: number;
}
/**
 * The user has seen or heard this text, the beginning of the answer's.
 */
export interface PresentedText {
  text: string;
}
/**
 * Has no answer unless it is wrong: it is said many times a second.
 */
export interface RequestPresented {
  id?: string | null;
  type: "request.presented";
  request_id: string;
  part: number;
  offset: number;
}
/**
 * `message_id` is the answer to be given anew, or the user's message that is to be answered anew.
 */
export interface RequestRegenerate {
  id?: string | null;
  request_id: string;
  on_busy?: "queue" | "reject" | "interrupt" | "steer" | "parallel";
  target?: string | null;
  on_disconnect?: "continue" | "cancel";
  background?: boolean;
  route?: string | null;
  tools?: ClientTool[] | null;
  context?: {
    [k: string]: unknown;
  } | null;
  variables?: {
    [k: string]: string;
  } | null;
  segments?: Segments | null;
  since?: {
    epoch: string;
    seq: number;
  } | null;
  metadata?: {
    [k: string]: unknown;
  } | null;
  traceparent?: string | null;
  type: "request.regenerate";
  message_id: string;
}
/**
 * What the numbers of `rating` mean is the product's affair (−1 and 1, or 1 to 5).
 */
export interface FeedbackCreate {
  id?: string | null;
  type: "feedback.create";
  request_id: string;
  rating: number;
  comment?: string | null;
}
export interface ToolClaim {
  id?: string | null;
  request_id: string;
  call_id: string;
  type: "tool.claim";
}
/**
 * Exactly one of `output`, which may be null, and `error`.
 */
export interface ToolResult {
  id?: string | null;
  request_id: string;
  call_id: string;
  type: "tool.result";
  output?: unknown;
  error?: string | null;
}
/**
 * `arguments`, where there are any, replace those of the model.
 */
export interface ToolApprove {
  id?: string | null;
  request_id: string;
  call_id: string;
  type: "tool.approve";
  arguments?: {
    [k: string]: unknown;
  } | null;
}
export interface ToolDeny {
  id?: string | null;
  request_id: string;
  call_id: string;
  type: "tool.deny";
  reason?: string | null;
}
export interface ToolCancel {
  id?: string | null;
  request_id: string;
  call_id: string;
  type: "tool.cancel";
}
/**
 * `state` must be there; null takes back what this connection has said, it goes on following.
 */
export interface PresenceSet {
  id?: string | null;
  type: "presence.set";
  conversation_id: string;
  state: unknown;
}
/**
 * `value` must be there; null takes the key out of the prompts, its version stays.
 */
export interface ContextSet {
  id?: string | null;
  type: "context.set";
  conversation_id: string;
  key: string;
  version: number;
  value: unknown;
}
/**
 * `answer_id` names the answer before there is one: what waits behind this request has it as parent.
 */
export interface MessageCreated {
  type: "message.created";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  message: Message;
  answer_id?: string;
}
/**
 * One message of a conversation. `ordinal` is the place of its request in the conversation.
 */
export interface Message {
  message_id: string;
  request_id: string;
  role: "user" | "assistant" | "operator";
  author?: string;
  parts: (TextPart | ReasoningPart | ToolCallPart)[];
  status: "complete" | "partial" | "cancelled" | "interrupted" | "incomplete" | "failed";
  created_at: number;
  parent_id?: string;
  ordinal?: number;
  steered?: Steered[];
  prompt?: PromptUsed;
}
export interface TextPart {
  kind: "text";
  text: string;
}
export interface ReasoningPart {
  kind: "reasoning";
  text: string;
}
/**
 * `arguments` is the text written so far while `started`, the parsed object from `called` on.
 */
export interface ToolCallPart {
  kind: "tool_call";
  call_id: string;
  name: string;
  where: "server" | "client" | "mcp";
  arguments:
    | string
    | {
        [k: string]: unknown;
      };
  state: "started" | "called" | "waiting_approval" | "running" | "completed" | "failed";
  output?: unknown;
  error?: string;
  approval?: Approval;
}
/**
 * An approval that somebody is asked for; `arguments` are those to be approved.
 */
export interface Approval {
  expires_at: number;
  arguments: {
    [k: string]: unknown;
  };
}
/**
 * A request that was folded into an answer: the parts from index `part` on were written knowing it.
 */
export interface Steered {
  part: number;
  request_id: string;
}
/**
 * The version of a prompt that an answer was given with.
 */
export interface PromptUsed {
  name: string;
  version: number;
}
export interface RequestQueued {
  type: "request.queued";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  position: number;
  behind?: string;
}
/**
 * A request in the background has failed and waits until `until` (ms) to be tried for the `retry`th time again.
 */
export interface RequestDelayed {
  type: "request.delayed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  retry: number;
  until: number;
  reason: string;
}
export interface MessageStarted {
  type: "message.started";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  message_id: string;
  run: number;
  route?: string;
  prompt?: PromptUsed;
}
/**
 * The route that the request takes from here on, when it was not known from the beginning.
 */
export interface RouteChosen {
  type: "route.chosen";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  route: string;
  by: "model" | "default";
}
export interface RetrievalStarted {
  type: "retrieval.started";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  query?: string;
}
export interface RetrievalCompleted {
  type: "retrieval.completed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  documents: number;
  sources: Source[];
}
/**
 * A document that retrieval found.
 */
export interface Source {
  id: string;
  title?: string;
  score?: number;
}
export interface RetrievalFailed {
  type: "retrieval.failed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  reason: string;
}
/**
 * `run` is present when it is above 1: the step belongs to a run that took the turn over.
 */
export interface StepStarted {
  type: "step.started";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  step: number;
  attempt: number;
  deployment: string;
  model: string;
  run?: number;
  context?: StepContext;
}
/**
 * What went into the prompt of a step, in tokens as the deployment's tokenizer counts them, and what did not.
 *
 * `tokens` is the whole, of at most `budget` where there is one; `system` (with shared context, summary and memories),
 * `history` (turns before this one), `turn` and `tools` are its parts. `messages` are those of the history that are in
 * it, `left_out` those that were looked at and had no room, `compacted` the tool results that were shortened;
 * `summary` is the version of the summary in it, `memories` how many earlier messages were found again.
 */
export interface StepContext {
  tokens: number;
  budget?: number;
  system: number;
  history: number;
  turn: number;
  tools: number;
  messages: number;
  left_out: number;
  compacted?: number;
  summary?: number;
  memories?: number;
}
export interface StepFailed {
  type: "step.failed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  step: number;
  attempt: number;
  deployment: string;
  reason: string;
  next?: string;
}
/**
 * What the user has said (`on: "input"`), the model answered or a tool returned is not passed on as it is.
 */
export interface ValidationFailed {
  type: "validation.failed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  step: number;
  on: "input" | "output" | "tools";
  reason: string;
  action: "redact" | "repair" | "fallback" | "refuse";
  guard?: string;
}
export interface OutputTextDelta {
  type: "output_text.delta";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  part: number;
  offset: number;
  text: string;
}
export interface ReasoningDelta {
  type: "reasoning.delta";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  part: number;
  offset: number;
  text: string;
}
export interface PartReset {
  type: "part.reset";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  part: number;
  offset: number;
}
export interface ToolStarted {
  type: "tool.started";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  part: number;
  name: string;
  where: "server" | "client" | "mcp";
  interruptible: boolean;
  side_effect: boolean;
}
export interface ToolArgumentsDelta {
  type: "tool.arguments.delta";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  offset: number;
  text: string;
}
export interface ToolCalled {
  type: "tool.called";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  where: "server" | "client" | "mcp";
  arguments: {
    [k: string]: unknown;
  };
}
export interface ToolRunning {
  type: "tool.running";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  run: number;
}
export interface ToolProgress {
  type: "tool.progress";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  fraction?: number;
  message?: string;
}
export interface ToolApprovalRequired {
  type: "tool.approval_required";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  expires_at: number;
  arguments: {
    [k: string]: unknown;
  };
}
export interface ToolApproved {
  type: "tool.approved";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  by: string;
  arguments?: {
    [k: string]: unknown;
  };
}
export interface ToolDenied {
  type: "tool.denied";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  by: string;
  reason?: string;
}
export interface ToolCompleted {
  type: "tool.completed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  output?: unknown;
  duration_ms: number;
}
export interface ToolFailed {
  type: "tool.failed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  call_id: string;
  outcome: "failed" | "timed_out" | "denied" | "cancelled" | "never_started" | "unknown";
  error: string;
}
export interface SteerApplied {
  type: "steer.applied";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  from: string;
}
export interface UsageCompleted {
  type: "usage.completed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  input_tokens: number;
  output_tokens: number;
  cached_tokens: number;
  cost_usd: string;
  source: "provider" | "estimated" | "mixed";
  attempts: Attempt[];
}
/**
 * One try of a step at one deployment, as the ledger has it.
 */
export interface Attempt {
  step: number;
  attempt: number;
  deployment: string;
  outcome: "completed" | "failed" | "cancelled" | "hedge_lost" | "node_lost";
  input_tokens: number;
  output_tokens: number;
  cached_tokens: number;
  cost_usd: string;
  source: "provider" | "estimated";
}
export interface MessageCompleted {
  type: "message.completed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  terminal: true;
  message?: Message;
  length?: number;
  finish_reason: string;
}
export interface MessageCancelled {
  type: "message.cancelled";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  terminal: true;
  message?: Message;
  length?: number;
  reason?: string;
  by: string;
}
export interface MessageInterrupted {
  type: "message.interrupted";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  terminal: true;
  message?: Message;
  length?: number;
  reason: string;
  generated: number;
  sent: number;
  presented: number;
  basis: "reported" | "assumed";
}
export interface MessageMerged {
  type: "message.merged";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  terminal: true;
  message?: Message;
  into: string;
}
export interface MessageIncomplete {
  type: "message.incomplete";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  terminal: true;
  message?: Message;
  length?: number;
  reason: "length" | "content_filter" | "budget" | "steps" | "node_lost" | "deadline";
}
export interface MessageFailed {
  type: "message.failed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  request_id: string;
  terminal: true;
  error: Failure;
  message?: Message;
  length?: number;
}
/**
 * Why a request failed; `message` is for a person to act on.
 */
export interface Failure {
  code:
    | "provider_auth"
    | "provider_rate_limited"
    | "provider_timeout"
    | "provider_cut"
    | "provider_error"
    | "unavailable"
    | "internal";
  message: string;
  retryable: boolean;
}
/**
 * A report of what was presented that came after the end.
 */
export interface MessageAmended {
  type: "message.amended";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  message_id: string;
  message: Message;
  generated: number;
  sent: number;
  presented: number;
  basis: "reported" | "assumed";
}
/**
 * Without `role`: the user is no longer a member.
 */
export interface MemberChanged {
  type: "member.changed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  user_id: string;
  role?: "viewer" | "editor" | "owner";
  by?: string;
}
export interface ContextChanged {
  type: "context.changed";
  conversation_id: string;
  seq: number;
  ts: number;
  from_seq?: number;
  key: string;
  version: number;
  value?: unknown;
  by?: string;
}
export interface Welcome {
  type: "welcome";
  ref?: string;
  connection_id: string;
  tenant_id: string;
  user_id: string;
  node_id: string;
  server: ServerInfo;
  protocol: number;
  server_time: number;
  heartbeat_s: number;
  expires_at?: number;
  features: string[];
  limits: {
    [k: string]: number;
  };
}
export interface ServerInfo {
  name: string;
  version: string;
}
export interface Pong {
  type: "pong";
  ref?: string;
  server_time: number;
}
/**
 * Which of the fields are there depends on the command, see SPEC sections 3, 4, 6 and 7.
 */
export interface Ack {
  type: "ack";
  ref?: string;
  request_id?: string;
  conversation_id?: string;
  call_id?: string;
  epoch?: string;
  seq?: number;
  state?:
    | "queued"
    | "preparing"
    | "streaming"
    | "waiting_tool"
    | "waiting_approval"
    | "waiting_human"
    | "completed"
    | "cancelled"
    | "interrupted"
    | "merged"
    | "incomplete"
    | "failed";
  duplicate?: boolean;
  verdict?: "live" | "replayed" | "snapshot";
  missed?: number;
  outcome?: string;
  expires_at?: number;
}
export interface ErrorMessage {
  type: "error";
  ref?: string;
  code: ErrorCode;
  message: string;
  retryable: boolean;
  retry_after_ms?: number;
  request_id?: string;
  details?: {
    [k: string]: unknown;
  };
}
export interface ConversationOpened {
  type: "conversation.opened";
  ref?: string;
  conversation_id: string;
  epoch: string;
  seq: number;
  verdict: "live" | "replayed" | "snapshot";
  missed?: number;
  created: boolean;
  role: "viewer" | "editor" | "owner";
  members: Member[];
  present: Presence[];
}
export interface Member {
  user_id: string;
  role: "viewer" | "editor" | "owner";
}
export interface Presence {
  user_id: string;
  state?: unknown;
}
export interface ConversationPage {
  type: "conversation.page";
  ref?: string;
  items: ConversationItem[];
  next?: string;
}
/**
 * One line of `conversation.page`.
 */
export interface ConversationItem {
  conversation_id: string;
  title?: string;
  role: "viewer" | "editor" | "owner";
  updated_at: number;
  running: boolean;
}
export interface ConversationMessages {
  type: "conversation.messages";
  ref?: string;
  items: Message[];
  next?: string;
}
export interface RequestResumed {
  request_id: string;
  conversation_id: string;
  state:
    | "queued"
    | "preparing"
    | "streaming"
    | "waiting_tool"
    | "waiting_approval"
    | "waiting_human"
    | "completed"
    | "cancelled"
    | "interrupted"
    | "merged"
    | "incomplete"
    | "failed";
  message_id?: string;
  run: number;
  last_seq: number;
  created_at: number;
  position?: number;
  presented?: Presented;
  type: "request.resumed";
  ref?: string;
  epoch: string;
  seq: number;
  verdict: "live" | "replayed" | "snapshot";
  missed?: number;
}
/**
 * How far the user has seen or heard an answer.
 */
export interface Presented {
  part: number;
  offset: number;
}
export interface RequestStateAnswer {
  request_id: string;
  conversation_id: string;
  state:
    | "queued"
    | "preparing"
    | "streaming"
    | "waiting_tool"
    | "waiting_approval"
    | "waiting_human"
    | "completed"
    | "cancelled"
    | "interrupted"
    | "merged"
    | "incomplete"
    | "failed";
  message_id?: string;
  run: number;
  last_seq: number;
  created_at: number;
  position?: number;
  presented?: Presented;
  type: "request.state";
  ref?: string;
}
/**
 * The state at exactly `seq`; it replaces what the client has.
 */
export interface ConversationSnapshot {
  type: "conversation.snapshot";
  conversation_id: string;
  epoch: string;
  seq: number;
  messages: Message[];
  before?: string;
  active: ActiveRequest[];
  context?: ContextEntry[];
}
/**
 * A request that has not ended, as a snapshot shows it. `answer_id` is what its answer will be called.
 */
export interface ActiveRequest {
  request_id: string;
  conversation_id: string;
  state:
    | "queued"
    | "preparing"
    | "streaming"
    | "waiting_tool"
    | "waiting_approval"
    | "waiting_human"
    | "completed"
    | "cancelled"
    | "interrupted"
    | "merged"
    | "incomplete"
    | "failed";
  message_id?: string;
  run: number;
  last_seq: number;
  created_at: number;
  position?: number;
  presented?: Presented;
  input: Message;
  answer_id?: string;
  message?: Message;
}
/**
 * One key of the context that the users of a conversation share. A value of null is one that was taken out.
 */
export interface ContextEntry {
  key: string;
  version: number;
  value?: unknown;
  by?: string;
}
export interface ConversationDeleted {
  type: "conversation.deleted";
  conversation_id: string;
}
export interface PresenceChanged {
  type: "presence.changed";
  conversation_id: string;
  joined: Presence[];
  left: Presence[];
  changed: Presence[];
}
export interface RateLimitsUpdated {
  type: "rate_limits.updated";
  limits: {
    [k: string]: unknown;
  };
}
/**
 * `kind` is open: `access_revoked`, `budget`, `log_unavailable` and `slow` are known so far.
 */
export interface Notice {
  type: "notice";
  kind: string;
  conversation_id?: string;
  request_id?: string;
  message?: string;
  details?: {
    [k: string]: unknown;
  };
}
export interface GoAway {
  type: "goaway";
  reason: string;
  deadline_ms: number;
  retry_after_ms: number;
}
export interface OutputTextSegment {
  type: "output_text.segment";
  conversation_id?: string;
  request_id: string;
  part: number;
  start: number;
  end: number;
  text: string;
  last: boolean;
}
