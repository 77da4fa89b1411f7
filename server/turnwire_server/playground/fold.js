// --- The fold: events in, state of a conversation out (SPEC section 6). Knows no page and no socket. --------
class Misfit extends Error {} // what came does not fit what is known: open again without `since`

const ENDINGS = {
  completed: "complete",
  cancelled: "cancelled",
  interrupted: "interrupted",
  merged: "complete",
  incomplete: "incomplete",
  failed: "failed",
};
const ordinalOf = (message) => (message.ordinal ?? -1) * 2 + (message.role === "user" ? 0 : 1);

class Conversation {
  constructor(id, known = {}) {
    this.id = id;
    this.epoch = known.epoch ?? "";
    this.seq = known.seq ?? 0;
    this.messages = new Map(known.messages ?? []); // what has ended, by message id
    this.active = new Map(known.active ?? []); // requests that run or wait, by request id
    this.context = new Map(known.context ?? []); // what is shared, by key
    this.notes = new Map(known.notes ?? []); // what a turn showed besides its message: times, steps, usage
    this.role = known.role ?? "owner";
    this.before = known.before; // where older messages are, if there are any
  }

  get cursor() {
    return this.epoch ? { epoch: this.epoch, seq: this.seq } : undefined;
  }

  toJSON() {
    const { epoch, seq, messages, active, context, notes, role, before } = this;
    return {
      epoch,
      seq,
      role,
      before,
      messages: [...messages],
      active: [...active],
      context: [...context],
      notes: [...notes],
    };
  }

  /** An answer with a verdict: where this client stands now. */
  place(answer) {
    if (answer.verdict === "live" && this.epoch !== answer.epoch) [this.epoch, this.seq] = [answer.epoch, answer.seq];
    if (answer.role) this.role = answer.role;
  }

  replace(snapshot) {
    this.epoch = snapshot.epoch;
    this.seq = snapshot.seq;
    this.before = snapshot.before;
    this.messages = new Map(snapshot.messages.map((message) => [message.message_id, message]));
    this.context = new Map((snapshot.context ?? []).map((entry) => [entry.key, entry]));
    this.active = new Map(
      snapshot.active.map((known) => [
        known.request_id,
        {
          ...known,
          answer_at: known.message?.created_at,
          message_id: known.message_id ?? known.message?.message_id,
          parts: known.message?.parts ?? [],
          steered: known.message?.steered ?? [],
        },
      ]),
    );
  }

  /** The log events of one frame, in order; the cursor moves once, behind the last. Gives the requests touched. */
  take(events) {
    const fresh = events.filter((event) => event.seq > this.seq);
    let next = this.seq + 1;
    for (const [first, last] of fresh
      .map((e) => [e.from_seq ?? e.seq, e.seq])
      .sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
      if (first > next) throw new Misfit(`sequence_gap: ${next} is missing before ${first}`);
      next = Math.max(next, last + 1);
    }
    for (const event of fresh) this.fold(event);
    this.seq = next - 1;
    return fresh.map((event) => event.request_id);
  }

  fold(event) {
    const request = this.active.get(event.request_id);
    if (event.type === "message.created") {
      this.active.set(event.request_id, {
        request_id: event.request_id,
        state: "preparing",
        run: 1,
        input: event.message,
        answer_id: event.answer_id,
        created_at: event.message.created_at,
        last_seq: event.seq,
        parts: [],
        steered: [],
      });
    } else if (event.type === "message.amended") {
      if (this.messages.has(event.message_id)) this.messages.set(event.message_id, event.message);
    } else if (event.type === "context.changed") {
      const { key, version, value, by } = event;
      // An older one may come after a newer one, when two were set at once.
      if (!(this.context.get(key)?.version >= version)) this.context.set(key, { key, version, value: value ?? undefined, by });
    } else if (FOLD[event.type] || event.terminal) {
      if (!request) throw new Misfit(`unknown_request: ${event.request_id}`);
      FOLD[event.type]?.(request, event);
      request.last_seq = event.seq;
      if (event.terminal) this.end(request, event);
    } // anything else is of a later version and only moves the cursor
    if (event.request_id) this.remember(event);
  }

  end(request, event) {
    this.active.delete(request.request_id);
    this.messages.set(request.input.message_id, request.input);
    const status = ENDINGS[event.type.slice("message.".length)];
    const answer = event.message ?? (event.length === undefined ? undefined : this.answerOf(request, status));
    if (answer) this.messages.set(answer.message_id, answer);
  }

  answerOf(request, status = "partial") {
    if (!request.message_id) return undefined;
    const { message_id, request_id, parts, steered, input } = request;
    return {
      message_id,
      request_id,
      role: "assistant",
      parts,
      status,
      created_at: request.answer_at ?? 0,
      parent_id: input.message_id,
      ordinal: input.ordinal,
      ...(steered.length ? { steered } : {}),
    };
  }

  note(requestId) {
    if (!this.notes.has(requestId)) this.notes.set(requestId, { failures: [], calls: {} });
    return this.notes.get(requestId);
  }

  remember(event) {
    const note = this.note(event.request_id);
    if (event.call_id && event.type in { "tool.progress": 1, "tool.completed": 1, "tool.failed": 1 })
      note.calls[event.call_id] = {
        ...note.calls[event.call_id],
        fraction: event.fraction,
        said: event.message,
        ms: event.duration_ms,
        outcome: event.outcome,
      };
    else if (event.type === "message.created") note.created = event.ts;
    else if (event.type === "step.started")
      Object.assign(note, { model: event.model, deployment: event.deployment, reset: false });
    else if (event.type === "step.failed")
      note.failures.push({ deployment: event.deployment, reason: event.reason, next: event.next });
    else if (event.type.startsWith("retrieval."))
      note.retrieval = { ...note.retrieval, ...event, state: event.type.slice(10) };
    else if (event.type === "usage.completed") note.usage = event;
    else if (event.type.endsWith(".delta") || event.type === "tool.started") note.first ??= event.ts;
    if (event.terminal) Object.assign(note, { ended: event.ts, ending: { ...event, message: undefined } });
  }

  running() {
    return [...this.active.values()].sort((a, b) => ordinalOf(a.input) - ordinalOf(b.input));
  }

  /** Finished messages from the beginning to the newest leaf; inputs of live requests are leaves as well. */
  branch() {
    const live = new Map(),
      links = new Map();
    for (const request of this.active.values()) {
      live.set(request.input.message_id, request.input);
      const answer = request.answer_id ?? request.message_id;
      if (answer) links.set(answer, request.input.message_id);
    }
    let newest;
    for (const message of [...this.messages.values(), ...live.values()])
      if (!newest || ordinalOf(message) > ordinalOf(newest)) newest = message;
    const way = [],
      seen = new Set();
    for (let at = newest?.message_id; at && !seen.has(at);) {
      seen.add(at);
      const message = this.messages.get(at);
      if (message) way.unshift(message);
      at = (message ?? live.get(at))?.parent_id ?? (message || live.has(at) ? undefined : links.get(at));
    }
    return way;
  }
}

function append(request, kind, event) {
  const { part: index, offset, text } = event;
  if (index === request.parts.length) request.parts.push({ kind, text: "" });
  const part = request.parts[index];
  if (part?.kind !== kind || part.text.length !== offset)
    throw new Misfit(`offset_mismatch: part ${index}, offset ${offset}`);
  part.text += text;
  if (request.state === "preparing") request.state = "streaming";
}

function dropFrom(request, index) {
  if (index >= request.parts.length) return;
  request.parts.length = index;
  request.steered = request.steered.map((one) => ({ ...one, part: Math.min(one.part, index) }));
}

function onCall(request, event, change) {
  const call = request.parts.find((part) => part.call_id === event.call_id);
  if (call) change(call); // a reset may have dropped it
  const states = new Set(request.parts.map((part) => part.state));
  request.state = states.has("waiting_approval")
    ? "waiting_approval"
    : states.has("called") || states.has("running")
      ? "waiting_tool"
      : states.has("started")
        ? "streaming"
        : "preparing";
}

const FOLD = {
  "request.queued": (request, { position }) => Object.assign(request, { state: "queued", position }),
  "message.started": (request, { message_id, run, ts }) =>
    Object.assign(request, {
      state: "preparing",
      position: undefined,
      message_id,
      run,
      answer_at: request.answer_at ?? ts,
    }),
  "step.started": (request, { run }) =>
    Object.assign(request, { state: "preparing", position: undefined, run: run ?? request.run }),
  "step.failed": () => {},
  "usage.completed": () => {},
  "retrieval.started": () => {},
  "retrieval.completed": () => {},
  "retrieval.failed": () => {},
  "tool.progress": () => {},
  "steer.applied": (request, event) => {
    request.steered = [...request.steered, { part: request.parts.length, request_id: event.from }];
  },
  "output_text.delta": (request, event) => append(request, "text", event),
  "reasoning.delta": (request, event) => append(request, "reasoning", event),
  "part.reset": (request, { part, offset }) => {
    const keep = offset === 0 ? part : part + 1;
    if (keep > request.parts.length || (offset && offset > request.parts[part].text.length))
      throw new Misfit(`offset_mismatch: reset of part ${part}`);
    dropFrom(request, keep);
    if (offset) request.parts[part].text = request.parts[part].text.slice(0, offset);
    onCall(request, {}, () => {});
  },
  "tool.started": (request, { part, call_id, name, where }) => {
    dropFrom(request, part); // a muted request may lack parts before it
    request.parts.push({ kind: "tool_call", call_id, name, where, arguments: "", state: "started" });
    if (request.state === "preparing") request.state = "streaming";
  },
  "tool.arguments.delta": (request, { call_id, offset, text }) => {
    const call = request.parts.find((part) => part.call_id === call_id);
    if (call && call.arguments.length !== offset) throw new Misfit(`offset_mismatch: arguments at ${offset}`);
    if (call) call.arguments += text;
    if (request.state === "preparing") request.state = "streaming";
  },
  "tool.called": (request, event) =>
    onCall(request, event, (call) =>
      Object.assign(call, { state: "called", where: event.where, arguments: event.arguments }),
    ),
  "tool.running": (request, event) =>
    onCall(request, event, (call) => {
      call.state = "running";
      delete call.approval;
    }),
  "tool.approval_required": (request, event) =>
    onCall(request, event, (call) =>
      Object.assign(call, {
        state: "waiting_approval",
        approval: { expires_at: event.expires_at, arguments: event.arguments },
      }),
    ),
  "tool.approved": (request, event) =>
    onCall(request, event, (call) => {
      Object.assign(call, { state: "called", arguments: event.arguments ?? call.arguments });
      delete call.approval;
    }),
  "tool.denied": (request, event) =>
    onCall(request, event, (call) => {
      delete call.approval;
    }),
  "tool.completed": (request, event) =>
    onCall(request, event, (call) => {
      Object.assign(call, { state: "completed", output: event.output });
      delete call.approval;
    }),
  "tool.failed": (request, event) =>
    onCall(request, event, (call) => {
      Object.assign(call, { state: "failed", error: event.error });
      delete call.approval;
    }),
};
