// --- Drawing: at most once a frame ---------------------------------------------------------------------------
let drawing = false,
  stick = true;
function draw() {
  if (drawing) return;
  drawing = true;
  // Frames stop while the page is hidden; the state goes on all the same.
  requestAnimationFrame(() => {
    drawing = false;
    drawNow();
  });
}

function drawNow() {
  const conversation = open();
  const turns = turnsOf(conversation);
  drawTurns(turns);
  $("hero").hidden = Boolean(app.current);
  $("thread").hidden = !app.current;
  $("earlier").hidden = !conversation?.before;
  const title =
    app.items.find((item) => item.conversation_id === app.current)?.title ??
    (turns[0] ? turns[0].input.parts[0].text.slice(0, 80) : "New conversation");
  $("title").textContent = title;
  document.title = app.current ? `${title} · Turnwire` : "Turnwire";
  drawStatus();
  const running = conversation?.running() ?? [];
  const hasText = Boolean($("draft").value.trim());
  const isBusy = running.length > 0 || app.outbox.size > 0;
  $("stop").hidden = !running.length;
  $("send").hidden = isBusy && !hasText;
  $("send").disabled = !hasText || conversation?.role === "viewer";
  $("send-label").textContent = isBusy ? "Queue" : "";
  $("draft").disabled = conversation?.role === "viewer";
  $("editing").hidden = !app.editing;
  const rest = running.filter((request) => request.state === "queued").length;
  $("hint").replaceChildren(
    conversation?.role === "viewer"
      ? "You may read this conversation."
      : rest
        ? `${plural(rest, "message")} queued`
        : el(
            "span",
            { className: "keys" },
            running.length ? "Esc stops the answer" : "Enter sends, Shift Enter for a new line",
          ),
  );
  if ($("app").classList.contains("inspecting")) {
    inspector.show(false);
    $("f-cursor").textContent = conversation?.epoch ? String(conversation.seq) : "–";
    $("f-cursor").title = conversation?.epoch ? `epoch ${conversation.epoch}` : "";
    $("f-count").textContent = `${inspector.count} / ${wire.frames}`;
    $("f-bytes").textContent = `${(wire.bytes / 1000).toFixed(1)} kB`;
  }
  if (stick) $("scroll").scrollTop = app.current ? $("scroll").scrollHeight : 0;
  $("latest").hidden = stick || !app.current;
}

function turnsOf(conversation) {
  if (!conversation) return [];
  const turns = new Map();
  for (const message of conversation.branch()) {
    const turn = turns.get(message.request_id) ?? {};
    turns.set(message.request_id, { ...turn, [message.role === "user" ? "input" : "answer"]: message });
  }
  for (const request of conversation.running())
    turns.set(request.request_id, { input: request.input, answer: conversation.answerOf(request), request });
  for (const { request_id, conversation_id, text } of app.outbox.values())
    if (conversation_id === conversation.id && !turns.has(request_id))
      turns.set(request_id, { input: { parts: [{ text }] }, sending: wire.state === "open" ? "…" : " when connected" });
  return [...turns]
    .filter(([, { input }]) => input)
    .map(([id, turn]) => ({ ...turn, id, note: conversation.note(id), stopping: app.stopping.has(id) }));
}

function drawTurns(turns) {
  const thread = $("thread");
  turns.forEach((turn, index) => {
    if (!app.turns.has(turn.id)) app.turns.set(turn.id, new Turn(turn.id, act));
    const shown = app.turns.get(turn.id);
    if (thread.children[index] !== shown.node) thread.insertBefore(shown.node, thread.children[index] ?? null);
    // What has ended and was drawn like that does not change any more.
    const state = turn.request
      ? null
      : JSON.stringify([
          turn.answer?.message_id,
          turn.answer?.status,
          turn.note.rating,
          turn.note.ended,
          turn.sending,
          act.canWrite(),
        ]);
    if (state === null || shown.drawn !== state) shown.update(turn);
    shown.drawn = state;
  });
  while (thread.children.length > turns.length) thread.lastChild.remove();
}

let countdown;
function drawStatus() {
  const { state, detail } = wire;
  const left = state === "waiting" ? Math.max(0, Math.ceil((detail.until - performance.now()) / 1000)) : 0;
  $("status").className = `pill ${state}`;
  $("status").lastChild.textContent = {
    connecting: "Connecting",
    open: "Connected",
    waiting: `Back in ${left} s`,
    refused: "Disconnected",
  }[state];
  $("status").title = state === "waiting" ? "Connect now" : state === "refused" ? detail.reason : "";
  $("cut").disabled = state !== "open";
  clearTimeout(countdown);
  if (state === "waiting") countdown = setTimeout(drawStatus, 250);
  if (state === "refused" && !$("signin").open) {
    $("signin-why").textContent =
      {
        4501: app.token
          ? `The server refused the token: ${detail.reason}`
          : "This server wants to know who you are. Paste a token; it stays in this tab.",
        4401: "Your token has expired. Paste a new one to go on where you were.",
      }[detail.code] ?? `The server closed the connection (${detail.code}): ${detail.reason}`;
    $("token").value = "";
    $("signin").showModal();
  }
}

function drawList() {
  const today = new Date().setHours(0, 0, 0, 0);
  const ages = [
    [today, "Today"],
    [today - 864e5, "Yesterday"],
    [today - 6 * 864e5, "This week"],
    [-Infinity, "Earlier"],
  ];
  let heading;
  $("list").replaceChildren(
    ...app.items.flatMap(({ conversation_id: id, title, updated_at, running, role }) => {
      const age = ages.find(([from]) => updated_at >= from)[1];
      const row = el(
        "div",
        { className: id === app.current ? "item current" : "item" },
        el(
          "button",
          {
            className: "open",
            onclick: () => select(id),
            title: title ?? id,
            ...(id === app.current && { "aria-current": "page" }),
          },
          running ? el("i", { className: "running-dot", title: "An answer is being written" }) : null,
          el("span", {}, title ?? "Untitled"),
        ),
        role === "owner"
          ? button(
              id === app.removing ? "remove sure" : "remove",
              "Delete this conversation",
              () => remove(id),
              id === app.removing ? "Delete?" : icon("trash"),
            )
          : null,
      );
      const fresh = age === heading ? [row] : [el("h2", {}, age), row];
      heading = age;
      return fresh;
    }),
  );
  if (!app.items.length)
    $("list").replaceChildren(el("p", { className: "list-note" }, "Your conversations will be listed here."));
}

// Asked twice, without a dialog: the first press only changes the button for a moment.
let removeTimer;
function remove(id) {
  clearTimeout(removeTimer);
  const isSure = app.removing === id;
  app.removing = isSure ? null : id;
  drawList();
  if (!isSure)
    return void (removeTimer = setTimeout(() => {
      app.removing = null;
      drawList();
    }, 3000));
  if (id === app.current) select(null);
  app.conversations.delete(id);
  wire
    .call({ type: "conversation.delete", conversation_id: id })
    .then(refreshList, (error) => toast(error.message, true));
}
