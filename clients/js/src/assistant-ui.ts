// assistant-ui: a conversation as its external store. `useTurnwireRuntime("c1")` gives the runtime for an
// `AssistantRuntimeProvider` below a `TurnwireProvider`. The conversation holds the messages; nothing is kept twice.

import {
  type AppendMessage,
  type AssistantRuntime,
  type ExternalStoreAdapter,
  type ThreadMessageLike,
  useExternalStoreRuntime,
} from "@assistant-ui/react";
import { useMemo } from "react";
import type { Conversation, ConversationOptions, ConversationView, SendOptions } from "./conversation.js";
import type { Message } from "./protocol.js";
import { useConversation } from "./react.js";
import type { Turn } from "./turn.js";
import type { Part } from "./types.js";

export interface StoreOptions {
  /** Options for each turn. */
  send?: Omit<SendOptions, "id" | "signal" | "parentId">;
}

type Like = Exclude<ThreadMessageLike["content"], string>[number];

/** The runtime of a conversation, which is followed while the component is there. */
export function useTurnwireRuntime(id: string, options?: StoreOptions & ConversationOptions): AssistantRuntime {
  const { send, ...about } = options ?? {};
  const view = useConversation(id, options && about);
  const { conversation } = view;
  const store = useMemo(() => storeOf(conversation, view, { send }), [conversation, view, send]);
  return useExternalStoreRuntime(store);
}

/** The store of a conversation as it is now. */
export function storeOf(
  conversation: Conversation,
  view: ConversationView,
  options: StoreOptions = {},
): ExternalStoreAdapter<Message> {
  const { thread, active } = view;
  const send = async ({ content, parentId }: AppendMessage, isEdit: boolean) => {
    const input = content.flatMap((part) => (part.type === "text" ? part.text : [])).join("");
    conversation.send(input, { ...options.send, ...(isEdit && { parentId }) });
  };
  /** The turn that has this call. */
  const turnOf = (callId: string): Turn | undefined => {
    const found = active.find(({ message }) =>
      message?.parts.some((part) => part.kind === "tool_call" && part.call_id === callId),
    );
    return found && conversation.turn(found.request_id);
  };
  return {
    messages: thread,
    convertMessage,
    isRunning: active.some(({ state }) => state !== "queued") || thread.at(-1)?.role === "user",
    isLoading: view.status === "opening" && !thread.length,
    hasEarlier: view.hasOlder,
    onLoadEarlier: () => conversation.loadOlder(),
    onNew: (message) => send(message, false),
    onEdit: (message) => send(message, true),
    onReload: async (parentId) => {
      if (parentId) conversation.regenerate(parentId, options.send);
    },
    onCancel: async () => {
      await Promise.all(active.map(({ request_id }) => conversation.turn(request_id).cancel()));
    },
    onAddToolResult: async ({ toolCallId, result, isError }) => {
      const turn = turnOf(toolCallId);
      if (!turn) return;
      const place = { request_id: turn.id, call_id: toolCallId };
      await conversation.client.request({ type: "tool.claim", ...place });
      const said = isError
        ? { error: typeof result === "string" ? result : JSON.stringify(result) }
        : { output: result };
      await conversation.client.request({ type: "tool.result", ...place, ...said });
    },
    onRespondToToolApproval: async ({ approvalId, approved, reason }) => {
      const turn = turnOf(approvalId);
      await (approved ? turn?.approve(approvalId) : turn?.deny(approvalId, reason));
    },
  };
}

export const convertMessage = ({
  message_id,
  request_id,
  role,
  parts,
  status,
  created_at,
}: Message): ThreadMessageLike => ({
  id: message_id,
  role: role === "user" ? "user" : "assistant",
  createdAt: new Date(created_at),
  content: parts.map(convertPart),
  ...(role !== "user" && { status: STATUS[status] }),
  metadata: { custom: { requestId: request_id, status } },
});

const STATUS: Record<Message["status"], NonNullable<ThreadMessageLike["status"]>> = {
  partial: { type: "running" },
  complete: { type: "complete", reason: "stop" },
  cancelled: { type: "incomplete", reason: "cancelled" },
  interrupted: { type: "incomplete", reason: "cancelled" },
  incomplete: { type: "incomplete", reason: "length" },
  failed: { type: "incomplete", reason: "error" },
};

function convertPart(part: Part): Like {
  if (part.kind !== "tool_call") return { type: part.kind, text: part.text };
  const isText = typeof part.arguments === "string";
  const result = part.state === "completed" ? (part.output ?? null) : part.state === "failed" ? part.error : undefined;
  return {
    type: "tool-call",
    toolCallId: part.call_id,
    toolName: part.name,
    argsText: isText ? (part.arguments as string) : JSON.stringify(part.arguments),
    ...(!isText && { args: part.arguments as never }),
    ...(result !== undefined && { result, isError: part.state === "failed" }),
    ...(part.state === "waiting_approval" && { approval: { id: part.call_id } }),
  };
}
