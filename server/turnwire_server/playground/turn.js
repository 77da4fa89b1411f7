// --- One turn on the page: what was asked, what came. Each `update…` brings nodes up to the state. -----------
const CALL_STATES = {
  started: "writing arguments",
  called: "about to run",
  running: "running",
  waiting_approval: "waits for approval",
  completed: "done",
  failed: "failed",
};
const REASONS = {
  length: "Stopped at the length limit",
  content_filter: "Stopped by the content filter",
  budget: "Stopped at the budget",
  steps: "Stopped after too many steps",
  node_lost: "Lost with its server",
  deadline: "Took too long",
};

class Turn {
  constructor(requestId, act) {
    Object.assign(this, { requestId, act, parts: [] });
    this.bubble = el("div", { className: "bubble" });
    this.under = el("div", { className: "under" });
    this.steps = el("div", { className: "steps" });
    this.body = el("div");
    this.meta = el("div", { className: "meta" });
    this.node = el(
      "section",
      { className: "turn" },
      el("div", { className: "asked" }, this.bubble, this.under),
      el("div", { className: "answer" }, this.steps, this.body, this.meta),
    );
  }

  /** `input` and `answer` are messages, `request` is there while it runs, `sending` while the server has not taken it. */
  update({ input, answer, request, note, sending, stopping }) {
    const text = input.parts.map((part) => part.text).join("");
    this.bubble.textContent = text;
    const isQueued = request?.state === "queued";
    this.node.classList.toggle("queued", isQueued || Boolean(sending));
    const under = sending
      ? `Sending${sending}`
      : isQueued
        ? `Queued, ${request.position ?? 1} ahead${stopping ? ", taking it back" : ""}`
        : request
          ? ""
          : `edit ${this.act.canWrite()}`;
    if (this.underState !== under) {
      this.underState = under;
      if (under.startsWith("edit"))
        this.under.replaceChildren(
          ...(this.act.canWrite()
            ? [button("", "Edit and ask again", () => this.act.edit(input, text), icon("edit"))]
            : []),
        );
      else
        this.under.replaceChildren(
          under,
          isQueued ? button("", "Take it back", () => this.act.cancel(this.requestId), "Take back") : "",
        );
    }
    this.updateSteps(request, note);
    this.updateParts(answer?.parts ?? [], request, note);
    this.updateMeta(input, answer, request, note, stopping);
  }

  updateSteps(request, note) {
    const { retrieval, failures } = note;
    const state = JSON.stringify([retrieval?.state, failures.length, request?.state, request?.parts.length === 0]);
    if (this.stepsState === state) return;
    this.stepsState = state;
    const lines = [];
    if (retrieval?.state === "started")
      lines.push(
        el("div", { className: "note" }, icon("search"), el("span", { className: "shimmer" }, "Looking it up")),
      );
    else if (retrieval?.state === "failed")
      lines.push(el("div", { className: "note warn" }, icon("search"), `Looking it up failed: ${retrieval.reason}`));
    else if (retrieval)
      lines.push(
        el(
          "div",
          { className: "note" },
          icon("search"),
          `${plural(retrieval.documents, "document")} searched`,
          el(
            "div",
            { className: "sources" },
            ...retrieval.sources.map((source) =>
              el("span", { title: `score ${source.score ?? "unknown"}` }, source.title ?? source.id),
            ),
          ),
        ),
      );
    for (const { deployment, reason, next } of note.ending?.error ? failures.slice(0, -1) : failures)
      // the last one is the ending's to tell
      lines.push(
        el(
          "div",
          { className: "note warn" },
          icon("warn"),
          `${deployment}: ${reason.replaceAll("_", " ")}. ${next && next !== deployment ? `${next} begins` : "It begins"} the step again.`,
        ),
      );
    if (request?.state === "preparing" && !request.parts.length && retrieval?.state !== "started")
      lines.push(el("div", { className: "note" }, el("span", { className: "shimmer" }, "Preparing the answer")));
    this.steps.replaceChildren(...lines);
  }

  updateParts(parts, request, note) {
    parts.forEach((part, index) => {
      const key = part.call_id ?? part.kind;
      let shown = this.parts[index];
      if (shown?.key !== key) {
        shown?.node.remove();
        shown = this.parts[index] = { key, node: this.partNode(part) };
        this.body.insertBefore(shown.node, this.body.children[index] ?? null);
      }
      const isWriting = Boolean(request) && request.state === "streaming" && index === parts.length - 1;
      if (part.kind === "tool_call") this.updateCall(shown.node, part, note.calls[part.call_id] ?? {}, request);
      else if (part.kind === "reasoning") {
        shown.node.lastChild.textContent = part.text;
        shown.node.querySelector("span").textContent = isWriting ? "Thinking" : "Thought";
        shown.node.querySelector("span").classList.toggle("shimmer", isWriting);
        if (shown.wasWriting !== isWriting) shown.node.open = isWriting; // closes by itself once, then it is the reader's
        shown.wasWriting = isWriting;
      } else {
        renderMarkdown(shown.node, part.text);
        shown.node.classList.toggle("writing", isWriting);
      }
    });
    for (const { node } of this.parts.splice(parts.length)) node.remove();
  }

  partNode(part) {
    if (part.kind === "reasoning")
      return el("details", { className: "thought" }, el("summary", {}, icon("right"), el("span")), el("div"));
    if (part.kind !== "tool_call") return el("div", { className: "text" });
    return el(
      "div",
      { className: "call" },
      el(
        "div",
        { className: "call-head" },
        icon("tool"),
        el("code", {}, part.name),
        el("span", { className: "state" }),
      ),
      el("dl"),
    );
  }

  updateCall(node, call, note, request) {
    const state = JSON.stringify([call, note, Boolean(request)]);
    if (node.state === state) return;
    node.state = state;
    const isOpen = call.state !== "completed" && call.state !== "failed";
    node.className = `call ${call.state}`;
    const word =
      call.state === "failed" && note.outcome
        ? note.outcome.replaceAll("_", " ")
        : (CALL_STATES[call.state] ?? call.state);
    node
      .querySelector(".state")
      .replaceChildren(
        isOpen && request ? el("span", { className: "spin" }) : icon(call.state === "completed" ? "check" : "warn"),
        isOpen && !request
          ? "ended before it finished"
          : word + (note.ms === undefined ? "" : ` in ${seconds(note.ms)}`),
      );
    const rows = [el("dt", {}, "Arguments"), el("dd", {}, el("pre", {}, pretty(call.arguments) || "…"))];
    if (isOpen && (note.fraction !== undefined || note.said)) {
      const bar = el("i");
      bar.style.width = `${Math.round((note.fraction ?? 0) * 100)}%`;
      rows.push(el("dt", {}, "Progress"), el("dd", {}, el("div", { className: "bar" }, bar), note.said ?? ""));
    }
    if (call.output !== undefined) rows.push(el("dt", {}, "Result"), el("dd", {}, el("pre", {}, pretty(call.output))));
    if (call.error) rows.push(el("dt", {}, "Error"), el("dd", {}, call.error));
    node.lastChild.replaceChildren(...rows);
  }

  updateMeta(input, answer, request, note, stopping) {
    const state = JSON.stringify([
      request?.state,
      stopping,
      note.ended,
      note.usage?.seq,
      answer?.status,
      note.rating,
      this.act.canWrite(),
    ]);
    if (this.metaState === state) return;
    this.metaState = state;
    if (request)
      return this.meta.replaceChildren(
        stopping && request.state !== "queued" ? el("span", { className: "badge" }, "Stopping") : "",
      );
    const { usage, ending } = note;
    const out = [];
    const status = ending?.type.slice("message.".length) ?? answer?.status;
    if (status === "failed") {
      out.push(
        el(
          "div",
          { className: "failure" },
          icon("warn"),
          el("p", {}, ending?.error?.message ?? "This turn failed.", el("small", {}, ending?.error?.code ?? "")),
          this.act.canWrite() ? button("", "Ask again", () => this.act.again(input), "Try again") : "",
        ),
      );
      out.at(-1).style.flexBasis = "100%";
    } else if (status === "cancelled")
      out.push(el("span", { className: "badge" }, usage || answer?.parts.length ? "Stopped" : "Taken back"));
    else if (status === "incomplete")
      out.push(el("span", { className: "badge" }, REASONS[ending?.reason] ?? "Incomplete"));
    if (answer?.parts.some((part) => part.text)) {
      const rate = (rating, name, label) => {
        const node = button("", label, () => this.act.rate(this.requestId, rating), icon(name));
        node.setAttribute("aria-pressed", note.rating === rating);
        return node;
      };
      out.push(
        el(
          "span",
          { className: "acts" },
          copyButton(() =>
            answer.parts
              .filter((part) => part.kind === "text")
              .map((part) => part.text)
              .join("\n\n"),
          ),
          rate(1, "good", "Good answer"),
          rate(-1, "poor", "Poor answer"),
        ),
      );
    }
    const say = (text, title = "") => out.push(el("span", { title }, text));
    if (note.model) say(note.model, `deployment ${note.deployment}`);
    if (note.first && note.created) say(`${seconds(note.first - note.created)} to first token`);
    if (note.ended && note.created) say(`${seconds(note.ended - note.created)} in all`);
    if (usage) {
      const sure = usage.source === "provider" ? "" : "≈ ";
      say(
        `${sure}${usage.input_tokens.toLocaleString("en")} in, ${plural(usage.output_tokens, "token")} out`,
        `${usage.cached_tokens} of the input from the cache; counted by: ${usage.source}`,
      );
      say(`${sure}$${usage.cost_usd}`, plural(usage.attempts.length, "attempt"));
    }
    this.meta.replaceChildren(...out);
  }
}
