// Tools that run in this client, and approvals. Works from what a conversation's live requests say, not from single
// events: so a call that began before a reload, or while the connection was away, is taken up all the same. Loaded when
// the first tool or approver is there.

import type { Client } from "./client.js";
import type { Conversation } from "./conversation.js";
import type { TurnwireError } from "./errors.js";
import type { Turn } from "./turn.js";
import type { ToolCall } from "./types.js";

export interface CallContext {
  turn: Turn;
  call: ToolCall;
  /** Aborted when nobody waits for the result any more. */
  signal: AbortSignal;
}

/** `parameters` is a JSON Schema of an object; the server checks arguments with it before anybody gets them. */
// biome-ignore lint/suspicious/noExplicitAny: tools of all kinds stand in one list
export interface Tool<Arguments = any> {
  name: string;
  description: string;
  parameters: Record<string, unknown>;
  /** Whether running it twice would be seen. True unless said. */
  sideEffect?: boolean;
  interruptible?: boolean;
  idempotent?: boolean;
  approval?: "required";
  approvalTimeoutS?: number;
  run(args: Arguments, context: CallContext): unknown;
}

/** True or the arguments to use instead: yes. False or a reason: no. Undefined: somebody else decides. */
export type Decision = boolean | string | { arguments: Record<string, unknown> } | undefined;
export type Approver = (
  about: CallContext & { arguments: Record<string, unknown>; expiresAt: number },
) => Decision | Promise<Decision>;

const OPEN = /called|running|waiting_approval/;

export class ToolRunner {
  #calls = new Map<string, AbortController>();

  constructor(
    private readonly client: Client,
    private readonly tools: Map<string, Tool>,
    private readonly approver: () => Approver | undefined,
  ) {}

  /** Something has changed there: what is new for us, and what does nobody wait for any more? */
  look(conversation: Conversation): void {
    const here = `${conversation.id} `;
    const open = new Set<string>();
    for (const live of conversation._fold.live.values())
      for (const call of live.input.author === this.client._userId ? live.parts : []) {
        if (call.kind !== "tool_call" || !OPEN.test(call.state)) continue;
        const isAsked = call.state === "waiting_approval";
        const key = `${here}${live.request_id} ${call.call_id} ${isAsked}`;
        open.add(key);
        if (this.#calls.has(key)) continue;
        const tool = call.where === "client" ? this.tools.get(call.name) : undefined;
        if (isAsked ? !this.approver() : !tool) continue;
        const abort = new AbortController();
        this.#calls.set(key, abort);
        const context = { turn: conversation.turn(live.request_id), call, signal: abort.signal };
        const done = isAsked ? this.#decide(context) : this.#run(tool as Tool, context);
        done.catch((error) => this.client._emit("error", error));
      }
    for (const [key, abort] of this.#calls)
      if (key.startsWith(here) && !open.has(key)) {
        this.#calls.delete(key);
        abort.abort();
      }
  }

  async #decide(context: CallContext): Promise<void> {
    const { call, turn } = context;
    const { arguments: args = {}, expires_at: expiresAt = 0 } = call.approval ?? {};
    const decision = await this.approver()?.({ ...context, arguments: args, expiresAt });
    if (decision === undefined || context.signal.aborted) return;
    const said =
      decision === true
        ? turn.approve(call.call_id)
        : typeof decision === "object"
          ? turn.approve(call.call_id, decision.arguments)
          : turn.deny(call.call_id, decision || undefined);
    await said.catch(unlessSettled);
  }

  async #run(tool: Tool, context: CallContext): Promise<void> {
    const { call, turn, signal } = context;
    const place = { request_id: turn.id, call_id: call.call_id };
    const settle = (result: { output: unknown } | { error: string }) =>
      this.client.request({ type: "tool.result", ...place, ...result }).catch(unlessSettled);
    // It runs already, and not here: a page of ours has begun it and is gone, or somebody else has it. What must not be
    // done twice is not begun again; the server takes the word only of who has claimed it.
    if (call.state === "running" && (tool.sideEffect ?? true) && !tool.idempotent) {
      await settle({ error: "the page that ran it is gone; whether it was done is not known" });
      return;
    }
    const isOurs = await this.client.request({ type: "tool.claim", ...place }).catch(unlessSettled);
    if (!isOurs || signal.aborted) return;
    try {
      const output = await tool.run(call.arguments, context);
      await settle({ output: output ?? null });
    } catch (error) {
      await settle({ error: String(error instanceof Error ? error.message : error).slice(0, 4096) || "it failed" });
    }
  }
}

const SETTLED = /already_settled|invalid_state|not_found|forbidden|lost|closed/;

/** Somebody else was first, or nobody waits any more: that is how it should be. */
function unlessSettled(error: TurnwireError): undefined {
  if (!SETTLED.test(error.code)) throw error;
}
