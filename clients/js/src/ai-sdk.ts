// The AI SDK's `ChatTransport`, for its `useChat` and `Chat` as they are: `new Chat({ transport: turnwire(client) })`.
// A chat's id is a conversation's, and the id of a user's message is its request's.
//
// What is streamed is made from what a turn is at each moment, not from single events: so a resumed stream, a snapshot
// and a merged delta need nothing of their own. The AI SDK cannot take back what it was given. When a turn does so
// (another deployment begins anew), a chunk `data-turnwire-reset {parts}` says how many parts of the message stand, and
// the text comes anew in parts behind them.

import type { ChatTransport, FinishReason, UIMessage, UIMessageChunk } from "ai";
import type { Client } from "./client.js";
import type { Conversation, SendOptions } from "./conversation.js";
import type { Turn } from "./turn.js";
import type { Part, TurnEvent } from "./types.js";

export interface TransportOptions {
  /** What stopping a chat means: stop the turn (the default), or stop listening to it. */
  onAbort?: "cancel" | "detach";
  /** Who decides on approvals: the chat's user, by `addToolApprovalResponse`, or the client's `onApproval`. */
  approvals?: "chat" | "client";
  /** Options for each turn. */
  send?: Omit<SendOptions, "id" | "signal" | "parentId">;
}

type Write = (chunk: UIMessageChunk) => void;
const ID = /^[\w.:-]{1,64}$/;

/** What has been told of one turn, through any number of streams. */
class Told {
  #parts: { part: Part; id: string; isOpen: boolean }[] = [];
  #count = 0;

  constructor(private readonly turn: Turn) {}

  /** Tell what is new in it. */
  tell(write: Write): void {
    const { parts } = this.turn;
    const stands = this.#parts.findIndex(({ part }, index) => !goesOn(part, parts[index]));
    if (stands >= 0) {
      this.#close(write, 0);
      this.#parts.length = stands;
      write({ type: "data-turnwire-reset", data: { parts: stands }, transient: true });
    }
    for (const [index, part] of parts.entries()) {
      const told = this.#parts[index];
      if (told && (told.part === part || isSame(told.part, part))) continue;
      this.#close(write, 0, index);
      if (part.kind === "tool_call") this.#call(write, part, told?.part);
      else this.#text(write, part, told);
      this.#parts[index] = { part, id: told?.id ?? String(this.#count), isOpen: part.kind !== "tool_call" };
      this.#count += told ? 0 : 1;
    }
  }

  /** A stream ends; what is told later is told as more of the same message. */
  end(write: Write): void {
    this.#close(write, 0);
  }

  #text(
    write: Write,
    part: Exclude<Part, { kind: "tool_call" }>,
    told?: { part: Part; id: string; isOpen: boolean },
  ): void {
    const before = told && told.part.kind !== "tool_call" ? told.part.text.length : 0;
    const id = told?.id ?? String(this.#count);
    if (!told?.isOpen) write({ type: part.kind === "text" ? "text-start" : "reasoning-start", id });
    const delta = part.text.slice(before);
    if (delta) write({ type: part.kind === "text" ? "text-delta" : "reasoning-delta", id, delta });
  }

  #close(write: Write, from: number, but?: number): void {
    for (const [index, told] of this.#parts.entries()) {
      if (index < from || index === but || !told.isOpen) continue;
      told.isOpen = false;
      write({ type: told.part.kind === "text" ? "text-end" : "reasoning-end", id: told.id });
    }
  }

  #call(write: Write, call: Extract<Part, { kind: "tool_call" }>, before: Part | undefined): void {
    const { call_id: toolCallId, name: toolName, state, arguments: input } = call;
    const was = before?.kind === "tool_call" ? before : undefined;
    const about = { toolCallId, providerExecuted: call.where !== "client", dynamic: true };
    if (!was) write({ type: "tool-input-start", toolName, ...about });
    if (typeof input === "string") {
      const written = typeof was?.arguments === "string" ? was.arguments.length : 0;
      if (input.length > written) write({ type: "tool-input-delta", toolCallId, inputTextDelta: input.slice(written) });
    } else if (!isSame(was?.arguments, input) && state !== "failed")
      write({ type: "tool-input-available", toolName, input, ...about });
    if (state === was?.state) return;
    if (state === "waiting_approval") write({ type: "tool-approval-request", approvalId: toolCallId, toolCallId });
    else if (state === "completed") write({ type: "tool-output-available", output: call.output ?? null, ...about });
    else if (state === "failed") write({ type: "tool-output-error", errorText: call.error ?? "it failed", ...about });
  }
}

// The whole message at the end has parts of its own.
const isSame = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

/** Whether `after` may be told as more of `before`. */
const goesOn = (before: Part, after: Part | undefined): boolean =>
  after !== undefined &&
  (before.kind === "tool_call"
    ? after.kind === "tool_call" && after.call_id === before.call_id
    : after.kind === before.kind && after.text.startsWith(before.text));

class TurnwireTransport<Message extends UIMessage> implements ChatTransport<Message> {
  /** A stream that is resumed begins with all there is. */
  readonly resumeStreamIsReplay = true;
  #told = new WeakMap<Turn, Told>();
  /** The calls that the chat has decided on; the log may tell of it later. */
  #decided = new WeakMap<Turn, Set<string>>();

  constructor(
    private readonly client: Client,
    private readonly options: TransportOptions,
  ) {}

  sendMessages: ChatTransport<Message>["sendMessages"] = async ({
    trigger,
    chatId,
    messageId,
    messages,
    abortSignal,
  }) => {
    const conversation = this.client.conversation(chatId);
    const last = messages.at(-1);
    if (trigger === "submit-message" && last?.role === "assistant") {
      const turn = await this.#answered(conversation, last);
      return this.#stream(turn, abortSignal, this.#told.get(turn));
    }
    const turn =
      trigger === "submit-message"
        ? this.#send(conversation, last as Message, messageId)
        : await this.#again(conversation, messageId);
    return this.#stream(turn, abortSignal);
  };

  reconnectToStream: ChatTransport<Message>["reconnectToStream"] = async (options) => {
    const conversation = this.client.conversation(options.chatId);
    await conversation.open();
    const running = conversation.view.active.findLast(({ state }) => state !== "queued");
    return running ? this.#stream(conversation.turn(running.request_id), options.abortSignal) : null;
  };

  #send(conversation: Conversation, { id, parts }: Message, edited: string | undefined): Turn {
    const input = parts.flatMap((part) => (part.type === "text" ? part.text : [])).join("");
    const before = edited && conversation.view.messages.find((one) => one.role === "user" && one.request_id === edited);
    const isFresh = ID.test(id) && !edited;
    return conversation.send(input, {
      ...this.options.send,
      ...(isFresh && { id }),
      ...(before && { parentId: before.parent_id ?? null }),
    });
  }

  async #again(conversation: Conversation, messageId: string | undefined): Promise<Turn> {
    await conversation.open();
    const answers = conversation.view.messages.filter(({ role }) => role !== "user");
    const answer = answers.find(({ message_id }) => message_id === messageId) ?? answers.at(-1);
    if (!answer) throw new Error("there is no answer to be given anew");
    return conversation.regenerate(answer.message_id, this.options.send);
  }

  /** The turn of an assistant's message whose approvals have been decided on. */
  async #answered(conversation: Conversation, { id, parts }: Message): Promise<Turn> {
    await conversation.open();
    const live = conversation.view.active.find(({ message_id }) => message_id === id);
    if (!live) throw new Error("the turn of this message has ended");
    const turn = conversation.turn(live.request_id);
    const decided = this.#decided.get(turn) ?? new Set();
    this.#decided.set(turn, decided);
    for (const part of parts) {
      if (!("state" in part) || part.state !== "approval-responded" || !("toolCallId" in part)) continue;
      const call = turn.parts.find((one) => one.kind === "tool_call" && one.call_id === part.toolCallId);
      if (call?.kind !== "tool_call" || call.state !== "waiting_approval") continue;
      await (part.approval.approved ? turn.approve(call.call_id) : turn.deny(call.call_id, part.approval.reason));
      decided.add(call.call_id);
    }
    return turn;
  }

  #stream(turn: Turn, signal: AbortSignal | undefined, known?: Told): ReadableStream<UIMessageChunk> {
    const told = known ?? new Told(turn);
    this.#told.set(turn, told);
    const waits = (part: Part) =>
      part.kind === "tool_call" && part.state === "waiting_approval" && !this.#decided.get(turn)?.has(part.call_id);
    const isAsked = () => this.options.approvals !== "client" && turn.parts.some(waits);
    const abort = () => {
      if (this.options.onAbort === "detach") turn.detach();
      else turn.cancel().catch(() => {});
    };
    signal?.addEventListener("abort", abort, { once: true });
    const stream = async (write: Write) => {
      let last: TurnEvent | undefined;
      let isBegun = false;
      for await (const event of turn) {
        last = event;
        const messageId = turn.view.message?.message_id;
        if (!messageId) continue;
        if (!isBegun) {
          write({ type: "start", messageId });
          write({ type: "start-step" });
          isBegun = true;
        }
        told.tell(write);
        // The chat decides, and comes back with its decision: the rest is another stream.
        if (isAsked()) break;
      }
      told.end(write);
      if (isBegun) write({ type: "finish-step" });
      write(ending(turn, last));
    };
    return new ReadableStream<UIMessageChunk>({
      start: (controller) => {
        let isOpen = true;
        const write: Write = (chunk) => isOpen && controller.enqueue(chunk);
        const close = () => {
          if (isOpen) controller.close();
          isOpen = false;
        };
        signal?.addEventListener("abort", close, { once: true });
        stream(write)
          .catch((error) => write({ type: "error", errorText: error instanceof Error ? error.message : String(error) }))
          .finally(() => {
            signal?.removeEventListener("abort", abort);
            signal?.removeEventListener("abort", close);
            close();
          });
      },
    });
  }
}

const REASONS: Record<string, FinishReason> = {
  stop: "stop",
  length: "length",
  content_filter: "content-filter",
  tool_calls: "tool-calls",
};

function ending({ state, error }: Turn, last: TurnEvent | undefined): UIMessageChunk {
  if (state === "cancelled" || state === "interrupted") return { type: "abort", reason: state };
  if (state === "failed") return { type: "error", errorText: error?.message ?? "it failed" };
  const { finish_reason, reason } = (last ?? {}) as { finish_reason?: string; reason?: string };
  return { type: "finish", finishReason: REASONS[finish_reason ?? reason ?? "stop"] ?? "other" };
}

/** A transport for chats whose ids are conversations of this client. */
export const turnwire = <Message extends UIMessage = UIMessage>(
  client: Client,
  options: TransportOptions = {},
): ChatTransport<Message> => new TurnwireTransport<Message>(client, options);
