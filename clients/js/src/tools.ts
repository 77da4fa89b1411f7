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

/** One call that is not settled, as far as this client has to do with it. */
interface Open {
  /** For whoever runs it. */
  abort: AbortController;
  /** For whoever decides on it. */
  asked?: AbortController | undefined;
  claim?: Promise<unknown>;
  isRun?: boolean;
}

export class ToolRunner {
  #open = new Map<string, Open>();
  /** Calls that have just been made, and whose approval is still to be asked for. */
  #unasked = new Set<string>();
  #watched = new WeakSet<Conversation>();

  constructor(
    private readonly client: Client,
    private readonly tools: Map<string, Tool>,
    private readonly approver: () => Approver | undefined,
  ) {}

  /** Something has changed there: what is new for us, and what does nobody wait for any more? */
  look(conversation: Conversation): void {
    this.#watch(conversation);
    const open = new Set<string>();
    for (const live of conversation._fold.live.values())
      for (const call of live.input.author === this.client.welcome?.user_id ? live.parts : []) {
        if (call.kind !== "tool_call" || !OPEN.test(call.state)) continue;
        const key = keyOf(conversation, live.request_id, call.call_id);
        open.add(key);
        this.#take(key, conversation, live.request_id, call);
      }
    for (const [key, one] of this.#open)
      if (key.startsWith(`${conversation.id} `) && !open.has(key)) {
        this.#open.delete(key);
        this.#unasked.delete(key);
        one.abort.abort();
        one.asked?.abort();
      }
  }

  #watch(conversation: Conversation): void {
    if (this.#watched.has(conversation)) return;
    this.#watched.add(conversation);
    conversation.onEvent((event) => {
      if (event.type === "tool.called") this.#unasked.add(keyOf(conversation, event.request_id, event.call_id));
      else if (event.type === "tool.approved")
        this.#unasked.delete(keyOf(conversation, event.request_id, event.call_id));
    });
  }

  #take(key: string, conversation: Conversation, requestId: string, call: ToolCall): void {
    const one = this.#open.get(key) ?? { abort: new AbortController() };
    this.#open.set(key, one);
    const tool = call.where === "client" ? this.tools.get(call.name) : undefined;
    if (call.state === "waiting_approval") {
      if (one.asked || !this.approver()) return;
      one.asked = new AbortController();
      this.#begin(this.#decide({ turn: conversation.turn(requestId), call, signal: one.asked.signal }));
      return;
    }
    one.asked?.abort();
    one.asked = undefined;
    if (!tool) return;
    if (call.state === "running" && !one.isRun) {
      one.isRun = true;
      this.#begin(this.#run(tool, one, { turn: conversation.turn(requestId), call, signal: one.abort.signal }));
    } else if (call.state === "called" && !(tool.approval && this.#unasked.has(key)))
      // Whoever holds the claim runs it, once the log says so: then it has been approved, too.
      one.claim ??= this.#claim(one, requestId, call);
  }

  #begin(done: Promise<void>): void {
    done.catch((error) => this.client._emit("error", error));
  }

  #claim(one: Open, request_id: string, { call_id }: ToolCall): Promise<unknown> {
    return this.client.request({ type: "tool.claim", request_id, call_id }).catch((error) => {
      // Too early: it is about to be approved first, which this page has yet to hear.
      if (error.code === "invalid_state") one.claim = undefined;
      return unlessSettled(error);
    });
  }

  async #decide(context: CallContext): Promise<void> {
    const { call, turn, signal } = context;
    const { arguments: args = {}, expires_at: expiresAt = 0 } = call.approval ?? {};
    const decision = await this.approver()?.({ ...context, arguments: args, expiresAt });
    if (decision === undefined || signal.aborted) return;
    const isYes = decision === true || typeof decision === "object";
    const said = isYes
      ? turn.approve(call.call_id, decision === true ? undefined : decision.arguments)
      : turn.deny(call.call_id, decision || undefined);
    await said.catch(unlessSettled);
  }

  async #run(tool: Tool, one: Open, context: CallContext): Promise<void> {
    const { call, turn, signal } = context;
    const settle = (result: { output: unknown } | { error: string }) =>
      this.client
        .request({ type: "tool.result", request_id: turn.id, call_id: call.call_id, ...result })
        .catch(unlessSettled);
    // It runs already, and this page has not begun it: an earlier life of it has, or somebody else. What must not be
    // done twice is not begun again; the server takes the word only of who has the claim.
    if (!one.claim && (tool.sideEffect ?? true) && !tool.idempotent) {
      await settle({ error: "the page that ran it is gone; whether it was done is not known" });
      return;
    }
    one.claim ??= this.#claim(one, turn.id, call);
    if (!(await one.claim) || signal.aborted) return;
    try {
      await settle({ output: (await tool.run(call.arguments, context)) ?? null });
    } catch (error) {
      await settle({ error: String(error instanceof Error ? error.message : error).slice(0, 4096) || "it failed" });
    }
  }
}

const keyOf = (conversation: Conversation, requestId: string, callId: string) =>
  `${conversation.id} ${requestId} ${callId}`;

const SETTLED = /already_settled|invalid_state|not_found|forbidden|lost|closed/;

/** Somebody else was first, or nobody waits any more: that is how it should be. */
function unlessSettled(error: TurnwireError): undefined {
  if (!SETTLED.test(error.code)) throw error;
}
