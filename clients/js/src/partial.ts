// One live request: how each event changes it (SPEC section 10). Pure. `take` is above.

import { type Live, Misfit } from "./live.js";
import type * as wire from "./protocol.js";
import type { Part, RequestState, ToolCall } from "./types.js";

// Handlers are chosen by the event's type, and each knows the fields of its own.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Handler = (live: Live, event: any) => Partial<Live> | undefined;

const misfit = () => new Misfit("offset_mismatch");

// While tools are open the request waits for them, even when the model goes on writing.
const written = ({ state }: Live) => (state === "preparing" ? "streaming" : state);

const append =
  (kind: "text" | "reasoning"): Handler =>
  (live, { part: index, offset, text }) => {
    const parts = [...live.parts];
    const part = parts[index] ?? { kind, text: "" };
    if (index > parts.length || part.kind !== kind || part.text.length !== offset) throw misfit();
    parts[index] = { kind, text: part.text + text };
    return { parts, state: written(live) };
  };

// A request that was folded in stays so: what is written instead is written knowing it as well.
const dropFrom = ({ parts, steered }: Live, index: number) => ({
  parts: parts.slice(0, index),
  steered: steered.map((one) => ({ ...one, part: Math.min(one.part, index) })),
});

const stateOf = (parts: readonly Part[]): RequestState => {
  const has = (state: ToolCall["state"]) => parts.some((part) => part.kind === "tool_call" && part.state === state);
  if (has("waiting_approval")) return "waiting_approval";
  return has("called") || has("running") ? "waiting_tool" : has("started") ? "streaming" : "preparing";
};

// A call that is not there changes nothing: a reset has dropped it meanwhile.
const withCall = (live: Live, id: string, change: (call: ToolCall) => Partial<ToolCall>) =>
  live.parts.map((part) => (part.kind === "tool_call" && part.call_id === id ? { ...part, ...change(part) } : part));

const onCall =
  (state: ToolCall["state"]): Handler =>
  (live, { call_id, where, arguments: args, output, error, expires_at }) => {
    const parts = withCall(live, call_id, (call) =>
      expires_at
        ? { state, approval: { expires_at, arguments: args } }
        : {
            state,
            where: where ?? call.where,
            arguments: args ?? call.arguments,
            output: output ?? call.output,
            error: error ?? call.error,
            approval: undefined,
          },
    );
    return { parts, state: stateOf(parts) };
  };

const quiet: Handler = () => undefined;

/** Events of later versions are not here: they move the cursor and nothing else. */
const HANDLERS: Record<string, Handler> = {
  "request.queued": (_, { position }) => ({ state: "queued", position }),
  "request.delayed": () => ({ state: "queued", position: undefined }),
  "message.started": (live, { message_id, run, prompt, ts }) => ({
    state: "preparing",
    position: undefined,
    message_id,
    run,
    prompt,
    answered_at: live.answered_at || ts,
  }),
  "step.started": (live, { run = live.run }) => ({ state: "preparing", position: undefined, run }),
  "output_text.delta": append("text"),
  "reasoning.delta": append("reasoning"),
  "part.reset": (live, { part: index, offset }) => {
    // A part cut at 0 goes: what comes in its place may be of another kind.
    const keep = offset ? index + 1 : index;
    const kept = dropFrom(live, keep);
    const { parts } = kept;
    const text = textOf(parts[index]);
    if (keep > parts.length || offset > text.length) throw misfit();
    if (offset) parts[index] = { ...parts[index], text: text.slice(0, offset) } as Part;
    return { ...kept, state: stateOf(parts) };
  },
  "tool.started": (live, { part, call_id, name, where }) => {
    // Whoever has cancelled may lack the parts before it, or have some that a reset has dropped.
    const kept = dropFrom(live, part);
    kept.parts.push({ kind: "tool_call", call_id, name, where, arguments: "", state: "started" });
    return { ...kept, state: written(live) };
  },
  "tool.arguments.delta": (live, { call_id, offset, text }) => ({
    parts: withCall(live, call_id, ({ arguments: known }) => {
      if (known.length !== offset) throw misfit();
      return { arguments: (known as string) + text };
    }),
    state: written(live),
  }),
  "tool.called": onCall("called"),
  "tool.running": onCall("running"),
  "tool.approval_required": onCall("waiting_approval"),
  "tool.approved": onCall("called"),
  "tool.denied": onCall("called"),
  "tool.completed": onCall("completed"),
  "tool.failed": onCall("failed"),
  "steer.applied": ({ parts, steered }, { from }) => ({
    steered: [...steered, { part: parts.length, request_id: from }],
  }),
};
for (const type of [
  "step.failed",
  "usage.completed",
  "tool.progress",
  "retrieval.started",
  "retrieval.completed",
  "retrieval.failed",
  "route.chosen",
  "validation.failed",
])
  HANDLERS[type] = quiet;

export const isKnown = (event: { type: string; terminal?: boolean }) => event.type in HANDLERS || event.terminal;

/** The request after `event`. Throws a `Misfit` for a delta that does not begin where its part ends. */
export const apply = (live: Live, event: { type: string; seq: number }): Live => ({
  ...live,
  ...HANDLERS[event.type]?.(live, event),
  last_seq: event.seq,
});

export const created = ({ request_id, conversation_id, seq, message, answer_id }: wire.MessageCreated): Live => ({
  request_id,
  conversation_id,
  state: "preparing",
  run: 1,
  last_seq: seq,
  created_at: message.created_at,
  input: message,
  answer_id,
  parts: [],
  steered: [],
});

const textOf = (part: Part | undefined) => (part && part.kind !== "tool_call" ? part.text : "");
