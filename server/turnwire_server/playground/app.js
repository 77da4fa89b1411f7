// --- The page: which conversation is open, what waits to be sent, what was pressed ---------------------------
const app = {
  conversations: new Map(), // those followed, by id
  current: decodeURIComponent(location.hash.slice(1)) || kept.get("current"),
  outbox: new Map(kept.get("outbox") ?? []), // requests the server has not acknowledged, by id
  stopping: new Set(), // requests whose cancel has not been followed by their end
  items: [],
  turns: new Map(),
  editing: null,
  removing: null,
  token: kept.get("token") ?? undefined,
};
const FOLLOWED = 8;
const open = () => app.conversations.get(app.current);

const wire = new Wire({
  hello() {
    app.resumed = [...app.conversations.keys()];
    return {
      token: app.token,
      client: { name: "turnwire-playground", version: "1" },
      resume: [...app.conversations.values()].map(({ id, cursor }) => ({ conversation_id: id, since: cursor })),
    };
  },
  welcome(welcome) {
    app.welcome = welcome;
    $("who").replaceChildren(el("b", {}, welcome.user_id), ` in ${welcome.tenant_id}`);
    $("who").title = `${welcome.server.name} ${welcome.server.version}, node ${welcome.node_id}`;
    for (const item of app.outbox.values()) deliver(item);
    for (const id of app.stopping) wire.call({ type: "request.cancel", request_id: id }).catch(() => {});
    refreshList();
  },
  seen: (direction, message) => {
    inspector.add(direction, message);
    draw();
  },
  frame: receive,
  changed: draw,
});

function receive(messages) {
  const events = new Map(); // log events by conversation: a cursor moves once a frame
  const flush = () => {
    for (const [conversation, batch] of events) {
      try {
        conversation.take(batch);
        batch.filter((event) => event.terminal).forEach((event) => ended(conversation, event));
      } catch (error) {
        if (!(error instanceof Misfit)) throw error;
        console.warn(error.message);
        reopen(conversation);
      }
    }
    events.clear();
  };
  for (const message of messages) {
    const conversation = app.conversations.get(message.conversation_id);
    if (message.type === "notice") toast(message.message ?? message.kind);
    else if (message.type === "goaway")
      toast("The server is going away; running answers finish, then this page comes back.");
    else if (message.type === "error" && message.ref?.startsWith("resume."))
      refused(app.resumed[Number(message.ref.slice(7))], message);
    else if (!conversation) continue;
    else if (message.type === "conversation.snapshot") {
      flush();
      conversation.replace(message);
    } else if (message.verdict) {
      conversation.place(message);
      tellReturn(message);
    } else if (message.type === "conversation.deleted") {
      forget(conversation.id);
      refreshList();
    } else if (message.seq) events.set(conversation, [...(events.get(conversation) ?? []), message]);
    if (message.type === "message.created") app.outbox.delete(message.request_id);
  }
  flush();
  keepSoon();
  draw();
}

function ended(conversation, event) {
  app.stopping.delete(event.request_id);
  const text =
    event.message?.parts
      .filter((part) => part.kind === "text")
      .map((part) => part.text)
      .join(" ") ?? "";
  if (conversation === open())
    $("say").textContent =
      event.type === "message.completed" ? text : `${event.type.slice(8)}. ${event.error?.message ?? text}`;
  refreshList();
}

function tellReturn({ ref, conversation_id, verdict, missed }) {
  if (!wire.lostAt || !ref?.startsWith("resume.") || conversation_id !== app.current) return;
  const away = seconds(performance.now() - wire.lostAt);
  wire.lostAt = undefined;
  toast(
    verdict === "replayed"
      ? `Back after ${away}: ${plural(missed, "missed event")} replayed`
      : verdict === "live"
        ? `Back after ${away}: nothing was missed`
        : `Back after ${away}: the state came as a snapshot`,
  );
}

function follow(id) {
  const conversation = new Conversation(id);
  app.conversations.set(id, conversation);
  for (const [old, { active }] of app.conversations) {
    if (app.conversations.size <= FOLLOWED) break;
    if (old === app.current || active.size) continue;
    app.conversations.delete(old);
    wire.call({ type: "conversation.leave", conversation_id: old }).catch(() => {});
  }
  return conversation;
}

/** Open again without a cursor: the state comes as a snapshot. */
function reopen({ id }) {
  wire.call({ type: "conversation.open", conversation_id: id, create: false }).catch((error) => refused(id, error));
}

function refused(id, { code }) {
  if (code === "not_found" || code === "forbidden") forget(id);
  else if (code !== "lost") setTimeout(() => app.conversations.has(id) && reopen({ id }), 1000);
}

/** One page further back than the snapshot reached. */
function readBack(conversation) {
  const { id, before } = conversation;
  conversation.before = undefined;
  wire.call({ type: "conversation.history", conversation_id: id, before }).then(
    ({ items, next }) => {
      for (const message of items) conversation.messages.set(message.message_id, message);
      conversation.before = next;
      stick = false;
      draw();
    },
    () => {
      conversation.before = before;
    },
  );
}

function forget(id) {
  if (id === undefined) return;
  app.conversations.delete(id);
  if (id === app.current) {
    toast("This conversation is not there, or not yours.");
    select(null);
  }
}

function select(id) {
  app.current = id;
  app.turns.clear();
  $("thread").replaceChildren();
  history.replaceState(null, "", id ? `#${encodeURIComponent(id)}` : location.pathname);
  if (id && !app.conversations.has(id)) reopen(follow(id));
  $("app").classList.remove("browsing");
  edit(null);
  stick = true;
  keepSoon();
  draw();
  $("draft").focus({ preventScroll: true });
}

// What the server has not acknowledged is sent again after a loss: the same id is the same turn.
function ask(text, parent) {
  const id = app.current ?? newId("c_");
  const item = {
    request_id: newId("r_"),
    conversation_id: id,
    text,
    parent,
    title: app.current ? undefined : text.slice(0, 80),
  };
  app.outbox.set(item.request_id, item);
  if (!app.current) {
    follow(id);
    app.current = id;
    history.replaceState(null, "", `#${id}`);
  }
  stick = true;
  keepSoon();
  deliver(item);
  draw();
}

async function deliver(item) {
  const { request_id, conversation_id, text, parent, title } = item;
  const create = {
    type: "request.create",
    request_id,
    conversation_id,
    input: text,
    ...(parent === undefined ? {} : { parent_id: parent }),
  };
  const first = title === undefined ? [] : [{ type: "conversation.open", conversation_id, title }];
  const answers = await Promise.allSettled(wire.callAll([...first, create]));
  const refusal = answers.find(({ status }) => status === "rejected")?.reason;
  if (!refusal) refreshList();
  else if (refusal.code === "unavailable" || refusal.code === "rate_limited")
    setTimeout(() => app.outbox.has(request_id) && deliver(item), refusal.retry_after_ms ?? 1000);
  else if (refusal.code !== "lost") {
    app.outbox.delete(request_id);
    toast(refusal.message, true);
    if (!$("draft").value) $("draft").value = text;
  }
  draw();
}

function cancel(id) {
  if (!id) return;
  app.stopping.add(id);
  wire.call({ type: "request.cancel", request_id: id }).then(
    ({ outcome }) => outcome === "already_terminal" && app.stopping.delete(id),
    () => {},
  );
  draw();
}

function edit(input, text = "") {
  if (input || app.editing) $("draft").value = text;
  app.editing = input;
  $("draft").focus();
  draw();
}

const act = {
  cancel,
  edit,
  canWrite: () => open()?.role !== "viewer",
  again: (input) => ask(input.parts.map((part) => part.text).join(""), input.parent_id ?? null),
  rate: (request_id, rating) =>
    wire.call({ type: "feedback.create", request_id, rating }).then(
      () => {
        open().note(request_id).rating = rating;
        draw();
      },
      (error) => toast(error.message, true),
    ),
};

let listTimer;
function refreshList() {
  clearTimeout(listTimer);
  listTimer = setTimeout(async () => {
    try {
      app.items = (await wire.call({ type: "conversation.list", limit: 100 })).items;
      drawList();
      draw();
    } catch {
      /* the next welcome asks again */
    }
  }, 150);
}

function toast(text, bad = false) {
  const node = el("div", { className: bad ? "toast bad" : "toast" }, text);
  $("toasts").append(node);
  setTimeout(() => node.remove(), bad ? 7000 : 4500);
}

let keepTimer;
function keepSoon() {
  keepTimer ??= setTimeout(keep, 1000);
}
function keep() {
  clearTimeout(keepTimer);
  keepTimer = undefined;
  kept.set("current", app.current);
  kept.set("outbox", [...app.outbox]);
  kept.set("conversation", open() ?? null);
}
