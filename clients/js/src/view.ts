// How a conversation looks to an application: what the log says, and behind it what is being sent.

import type { View } from "./fold.js";
import type { ConversationView } from "./options.js";
import type * as wire from "./protocol.js";
import type { Turn } from "./turn.js";

export function viewOf(
  { messages, active, context = [], before }: View,
  turns: readonly Turn[],
  status: ConversationView["status"],
  present: ReadonlyMap<string, wire.Presence>,
  { members = [], role }: Partial<wire.ConversationOpened>,
): ConversationView {
  const running = new Set(active.map(({ request_id }) => request_id));
  const sending = turns.filter(({ id, input, _isUnseen }) => _isUnseen && input && !running.has(id));
  return {
    status,
    messages,
    active,
    thread: [
      ...messages,
      ...active.flatMap(({ input, message }) => (message ? [input, message] : [input])),
      ...sending.map(optimistic),
    ],
    hasOlder: before !== undefined,
    context: Object.fromEntries(context.map((entry) => [entry.key, entry])),
    present: [...present.values()],
    members,
    role,
  };
}

/** What a turn that is being sent looks like until the server tells of it. */
const optimistic = ({ id, input, _entry }: Turn): wire.Message => ({
  message_id: id,
  request_id: id,
  role: "user",
  parts: typeof input === "string" ? [{ kind: "text", text: input }] : (input as wire.TextPart[]),
  status: "partial",
  created_at: _entry?.at ?? 0,
});
