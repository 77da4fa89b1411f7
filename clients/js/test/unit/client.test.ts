// The client against a server that the test drives by hand, by a clock that the test holds.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type Client, type ConnectOptions, connect, type TurnEvent } from "../../src/index.js";
import type { ServerMessage } from "../../src/protocol.js";
import { pass } from "../support/clock.js";
import { answer, FakeSocket, opened, script, serve, welcome } from "../support/fake.js";

const clients: Client[] = [];
const make = (options: ConnectOptions = {}): Client => {
  const client = connect("ws://fake/v1", { WebSocket: FakeSocket, storage: false, ...options });
  clients.push(client);
  return client;
};
/** Let what is under way get as far as it can without time passing. */
const settle = () => pass(0);
const types = (socket = FakeSocket.last) => socket.sent.map(({ type }) => type);

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0.5);
  FakeSocket.reset();
});
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

/** A client whose conversation is open, and the socket it is on. */
async function ready(options?: ConnectOptions) {
  serve();
  const client = make(options);
  const conversation = client.conversation("c1");
  conversation.subscribe(() => {});
  await settle();
  FakeSocket.born = () => {};
  FakeSocket.last.hears = () => {};
  return { client, conversation, socket: FakeSocket.last };
}

/** The next socket, greeted, following from where it was unless told otherwise. */
async function comeBack(ms = 30_000, ...instead: ServerMessage[]): Promise<FakeSocket> {
  await pass(ms);
  const socket = FakeSocket.last;
  socket.open();
  await settle();
  const { resume = [] } = socket.heard("hello");
  const usual = resume.map(
    ({ conversation_id, since }, index): ServerMessage => ({
      ...(opened(`resume.${index}`, conversation_id as string)[0] as Extract<
        ServerMessage,
        { type: "conversation.opened" }
      >),
      epoch: since?.epoch ?? "e1",
      seq: since?.seq ?? 0,
      verdict: "live",
    }),
  );
  socket.say(welcome(), ...(instead.length ? instead : usual));
  await settle();
  return socket;
}

describe("nothing happens by itself", () => {
  test("no socket is opened before something is needed", async () => {
    const client = make();
    client.conversation("c1");
    await pass(100_000);
    expect(FakeSocket.all).toEqual([]);
    expect(client.status.state).toBe("idle");
  });

  test("without a WebSocket there is a reason, not an exception", async () => {
    vi.stubGlobal("WebSocket", undefined);
    const client = make({ WebSocket: undefined });
    client.connect();
    await settle();
    expect(client.status.state).toBe("waiting");
    expect(client.status.reason).toBeTruthy();
    vi.unstubAllGlobals();
  });
});

describe("commands without an answer", () => {
  test("are sent again on the next connection, cancels before their requests", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.send("Hi", { id: "r1" });
    const cancelled = turn.cancel();
    await settle();
    expect(types(socket).slice(-2)).toEqual(["request.create", "request.cancel"]);
    socket.end();
    const next = await comeBack();
    expect(types(next)).toEqual(["hello", "request.cancel", "request.create"]);
    expect(next.heard("request.create")).toMatchObject({ request_id: "r1", input: "Hi" });
    next.say({ type: "ack", ref: next.heard("request.cancel").id as string, outcome: "recorded" });
    expect(await cancelled).toBe("recorded");
  });

  test("are not sent again where that is not safe", async () => {
    const { conversation, socket } = await ready();
    const deleted = conversation.delete().catch((error) => error.code);
    const turn = conversation.turn("r1");
    const held = turn.interrupt({ phase: "tentative" }).catch((error) => error.code);
    await settle();
    socket.end();
    expect(await Promise.all([deleted, held])).toEqual(["lost", "lost"]);
    const next = await comeBack();
    expect(types(next)).not.toContain("conversation.delete");
    expect(types(next)).not.toContain("request.interrupt");
  });

  test("that were never sent are sent, safe or not", async () => {
    const { conversation, socket } = await ready();
    socket.end();
    const deleted = conversation.delete();
    const next = await comeBack();
    next.say({ type: "ack", ref: next.heard("conversation.delete").id as string });
    await deleted;
  });

  test("are bounded in number and size", async () => {
    const client = make({ queue: { entries: 2, bytes: 500 } });
    const conversation = client.conversation("c1");
    conversation.send("one");
    conversation.send("two");
    const third = conversation.send("three");
    expect(third).toMatchObject({ state: "unsent", error: { code: "queue_full", retryable: true } });
    expect(
      make({ queue: { bytes: 100 } })
        .conversation("c")
        .send("x".repeat(200)).error?.code,
    ).toBe("queue_full");
  });

  test("that no frame can hold are refused here", async () => {
    const { conversation } = await ready();
    const turn = conversation.send("x".repeat(1_000_000).padEnd(1_048_000));
    await settle();
    expect(turn.error).toBeUndefined();
    const { conversation: other } = await ready({ queue: { bytes: 1e9 } });
    const large = other.send("x".repeat(1_048_577));
    await settle();
    expect(large.error?.code).toBe("too_large");
  });

  test("that are refused for the moment are tried again", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.send("Hi");
    await settle();
    const first = socket.heard("request.create");
    socket.say({
      type: "error",
      ref: first.id as string,
      code: "rate_limited",
      message: "",
      retryable: true,
      retry_after_ms: 700,
    });
    await pass(699);
    expect(types(socket).filter((type) => type === "request.create")).toHaveLength(1);
    await pass(1);
    expect(types(socket).filter((type) => type === "request.create")).toHaveLength(2);
    expect(turn.state).toBe("sending");
  });

  test("that are refused for the moment again and again are refused", async () => {
    const { conversation, socket } = await ready();
    socket.hears = ({ type, id }) => {
      if (type === "request.create")
        queueMicrotask(() =>
          socket.say({ type: "error", ref: id as string, code: "overloaded", message: "", retryable: true }),
        );
    };
    const turn = conversation.send("Hi");
    await pass(120_000);
    expect(turn.error?.code).toBe("overloaded");
  });

  test("that have waited too long are handed back, or looked for when they may have arrived", async () => {
    const { client, conversation, socket } = await ready();
    const returned = vi.fn();
    client.on("returned", returned);
    const sent = conversation.send("Sent", { id: "sent" });
    await settle();
    socket.end();
    const unsent = conversation.send("Unsent", { id: "unsent" });
    const next = await comeBack(61_000);
    expect(types(next)).not.toContain("request.create");
    expect(unsent).toMatchObject({ state: "unsent", input: "Unsent", error: { code: "stale" } });
    const asked = next.heard("request.status");
    expect(asked.request_id).toBe("sent");
    next.say({ type: "error", ref: asked.id as string, code: "not_found", message: "", retryable: false });
    await settle();
    expect(sent.state).toBe("unsent");
    expect(returned).toHaveBeenCalledTimes(2);
  });
});

describe("what is shown", () => {
  test("is what is sent, until the server tells of it", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.send("Hi", { id: "r1" });
    expect(conversation.view.thread).toMatchObject([{ role: "user", parts: [{ text: "Hi" }], status: "partial" }]);
    await settle();
    const log = script("c1", "r1");
    socket.say({ type: "ack", ref: socket.heard("request.create").id as string }, log.created("Hi"), log.started());
    socket.say(log.delta(0, "Hel"), log.delta(3, "lo"));
    expect(conversation.view.thread.map(({ message_id }) => message_id)).toEqual(["u-r1", "a-r1"]);
    expect(turn).toMatchObject({ state: "streaming", text: "Hello" });
    expect(conversation.view).toBe(conversation.view);
    expect(turn.view).toBe(turn.view);
  });

  test("duplicates change nothing", async () => {
    const { conversation, socket } = await ready();
    const log = script("c1", "r1");
    const frames = [log.created(), log.started(), log.delta(0, "Hello")];
    for (const frame of [...frames, ...frames]) socket.say(frame);
    expect(conversation.turn("r1").text).toBe("Hello");
  });

  test("a gap is closed by a snapshot, which replaces", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.turn("r1");
    const events: TurnEvent[] = [];
    const reading = (async () => {
      for await (const event of turn) events.push(event);
    })();
    const log = script("c1", "r1");
    socket.say(log.created());
    socket.say(log.started());
    socket.say(log.delta(0, "Hel"));
    await settle();
    log.delta(3, "lo"); // lost
    socket.say(log.delta(5, "!"));
    expect(conversation.view.status).toBe("opening");
    await settle();
    const asked = socket.heard("conversation.open");
    expect(asked.since).toEqual({ epoch: "-", seq: 0 });
    socket.say(log.delta(6, "?")); // does not count any more
    const [verdict] = opened(asked.id as string, "c1", "e1", 6) as [ServerMessage];
    socket.say(verdict, {
      type: "conversation.snapshot",
      conversation_id: "c1",
      epoch: "e1",
      seq: 6,
      messages: [],
      active: [active("r1", "Hello!?", 6)],
    });
    await settle();
    expect(turn.text).toBe("Hello!?");
    expect(events.at(-1)).toMatchObject({ type: "turn.reset", text: "Hello!?" });
    socket.say(log.completed("Hello!?"));
    await reading;
    expect(conversation.view.status).toBe("live");
  });

  test("what a snapshot shows is told, though the end comes in the same frame", async () => {
    const { conversation, socket } = await ready();
    const events: TurnEvent[] = [];
    const reading = (async () => {
      for await (const event of conversation.turn("r1")) events.push(event);
    })();
    const log = script("c1", "r1");
    log.created();
    log.started();
    log.delta(0, "Hello");
    socket.say(
      {
        type: "conversation.snapshot",
        conversation_id: "c1",
        epoch: "e1",
        seq: 3,
        messages: [],
        active: [active("r1", "Hello", 3)],
      },
      log.completed("Hello"),
    );
    await reading;
    expect(events).toMatchObject([{ type: "turn.reset", text: "Hello" }, { type: "message.completed" }]);
  });

  test("another epoch replaces everything", async () => {
    const { conversation, socket } = await ready();
    const log = script("c1", "r1");
    socket.say(log.created(), log.started(), log.delta(0, "Hello"), log.completed("Hello"));
    expect(conversation.view.messages).toHaveLength(2);
    socket.say({
      type: "conversation.snapshot",
      conversation_id: "c1",
      epoch: "e2",
      seq: 1,
      messages: [],
      active: [active("r2", "Anew", 1)],
    });
    expect(conversation.view.messages).toEqual([]);
    expect(conversation.turn("r2").text).toBe("Anew");
    socket.end();
    const next = await comeBack();
    expect(next.heard("hello").resume).toEqual([{ conversation_id: "c1", since: { epoch: "e2", seq: 1 } }]);
  });

  test("a turn that ended while nobody looked ends with what it became", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.turn("r1");
    const log = script("c1", "r1");
    socket.say(log.created(), log.started(), log.delta(0, "Hel"));
    socket.end();
    const next = await comeBack(30_000, ...withRef("resume.0", 9));
    next.say({
      type: "conversation.snapshot",
      conversation_id: "c1",
      epoch: "e1",
      seq: 9,
      messages: [answer("r1", "Hello", "interrupted")],
      active: [],
    });
    await settle();
    const asked = next.heard("request.status");
    const state = { conversation_id: "c1", run: 1, last_seq: 9, created_at: 1, request_id: "r1" };
    next.say({ type: "request.state", ref: asked.id as string, state: "interrupted", message_id: "a-r1", ...state });
    await settle();
    const page = next.heard("conversation.history");
    expect(page).toMatchObject({ leaf: "a-r1", limit: 1 });
    next.say({ type: "conversation.messages", ref: page.id as string, items: [answer("r1", "Hello", "interrupted")] });
    expect(await turn.result()).toMatchObject({ state: "interrupted", text: "Hello" });
  });

  test("a message too large for its event is read from the history when some of it is missing", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.turn("r1");
    const log = script("c1", "r1");
    socket.say(log.created(), log.started(), log.delta(0, "Hel"));
    socket.say(log.event("message.cancelled", { terminal: true, by: "ann", length: 5 }));
    await settle();
    const page = socket.heard("conversation.history");
    socket.say({ type: "conversation.messages", ref: page.id as string, items: [answer("r1", "Hello", "cancelled")] });
    expect(await turn.result()).toMatchObject({ state: "cancelled", text: "Hello" });
  });

  test("a reader that is slow gets all the text, as one", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.turn("r1");
    const reader = turn[Symbol.asyncIterator]();
    const first = reader.next();
    const log = script("c1", "r1");
    socket.say(log.created());
    await first;
    socket.say(log.started());
    for (let n = 0; n < 2000; n++) socket.say(log.delta(n, "x"));
    socket.say(log.completed("x".repeat(2000)));
    const events = [];
    for await (const event of reader) events.push(event);
    expect(events.length).toBeLessThan(600);
    expect(events.findLast(({ type }) => type === "turn.reset")).toMatchObject({ text: "x".repeat(2000) });
    expect(events.at(-1)).toMatchObject({ type: "message.completed" });
  });

  test("segments that come again after a connection was lost are given once", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.send("Hi", { id: "r1", segments: { unit: "sentence" } });
    await settle();
    const heard: string[] = [];
    const reading = (async () => {
      for await (const event of turn) if (event.type === "output_text.segment") heard.push(event.text);
    })();
    const log = script("c1", "r1");
    const say = (on: FakeSocket, start: number, text: string, last = false) =>
      on.say({
        type: "output_text.segment",
        conversation_id: "c1",
        request_id: "r1",
        part: 0,
        start,
        end: start + text.length,
        text,
        last,
      });
    socket.say(
      { type: "ack", ref: socket.heard("request.create").id as string },
      log.created(),
      log.started(),
      log.delta(0, "One. Two. Three."),
    );
    say(socket, 0, "One. ");
    say(socket, 5, "Tw");
    socket.end();
    const next = await comeBack();
    const again = next.heard("conversation.open");
    expect(again).toMatchObject({ since: { epoch: "e1", seq: 3 }, segments: { unit: "sentence" } });
    const [verdict] = opened(again.id as string, "c1", "e1", 3) as [
      Extract<ServerMessage, { type: "conversation.opened" }>,
    ];
    next.say({ ...verdict, verdict: "live" });
    say(next, 5, "Two. ");
    next.say(log.completed("One. Two. Three."));
    expect((await turn.result()).state).toBe("completed");
    say(next, 10, "Three.", true); // behind the end that it is made of
    await reading;
    expect(heard).toEqual(["One. ", "Tw", "o. ", "Three."]);
  });
});

describe("the newest word", () => {
  test("about what was presented is sent alone, and again on the next connection", async () => {
    const { conversation, socket } = await ready();
    const log = script("c1", "r1");
    socket.say(log.created(), log.started(), log.delta(0, "Hello"));
    const turn = conversation.turn("r1");
    for (const offset of [1, 2, 3]) turn.presented(offset);
    await pass(100);
    expect(socket.sent.filter(({ type }) => type === "request.presented")).toMatchObject([{ part: 0, offset: 3 }]);
    socket.end();
    const next = await comeBack();
    await pass(100);
    expect(next.heard("request.presented")).toMatchObject({ offset: 3 });
  });

  test("an offset in the text is a place in a part", async () => {
    const { conversation, socket } = await ready();
    const log = script("c1", "r1");
    const tool = { call_id: "k", part: 1, name: "t", where: "server", interruptible: false, side_effect: false };
    socket.say(
      log.created(),
      log.started(),
      log.delta(0, "One"),
      log.event("tool.started", tool),
      log.delta(0, "Two", 2),
    );
    const turn = conversation.turn("r1");
    expect(turn.text).toBe("OneTwo");
    for (const [offset, place] of [
      [0, { part: 0, offset: 0 }],
      [3, { part: 0, offset: 3 }],
      [4, { part: 2, offset: 1 }],
      [99, { part: 2, offset: 3 }],
    ] as const) {
      turn.interrupt({ presented: offset }).catch(() => {});
      await settle();
      expect(socket.heard("request.interrupt").presented).toEqual(place);
    }
  });

  test("of presence is said again on the next connection", async () => {
    const { conversation, socket } = await ready();
    conversation.setPresence({ typing: true });
    conversation.setPresence({ typing: false });
    await pass(100);
    expect(socket.heard("presence.set").state).toEqual({ typing: false });
    socket.end();
    expect(conversation.view.present).toEqual([]);
    const next = await comeBack();
    await pass(100);
    expect(next.heard("presence.set").state).toEqual({ typing: false });
  });
});

describe("a tool", () => {
  test("that was claimed before its approval was asked for is claimed again once it is given", async () => {
    const tool = { name: "t", description: "T", parameters: {}, approval: "required" as const, run: () => 1 };
    const { socket } = await ready({ tools: [tool] });
    await import("../../src/tools.js");
    await settle();
    const log = script("c1", "r1");
    const call = { call_id: "k" };
    const about = { ...call, name: "t", part: 0, where: "client", interruptible: false, side_effect: true };
    socket.say(
      log.created(),
      log.started(),
      log.event("tool.started", about),
      log.event("tool.called", { ...call, where: "client", arguments: {} }),
    );
    await settle();
    const claims = () => socket.sent.filter(({ type }) => type === "tool.claim");
    expect(claims()).toHaveLength(1);
    const ref = socket.heard("tool.claim").id as string;
    socket.say({ type: "error", ref, code: "invalid_state", message: "it waits for approval", retryable: false });
    socket.say(log.event("tool.approval_required", { ...call, expires_at: 9e12, arguments: {} }));
    await settle();
    expect(claims()).toHaveLength(1);
    socket.say(log.event("tool.approved", { ...call, by: "ann" }));
    await settle();
    expect(claims()).toHaveLength(2);
  });
});

describe("following", () => {
  test("ends a moment after the last one has left, and what is said then is not heard", async () => {
    serve();
    const conversation = make().conversation("c1");
    const stop = conversation.subscribe(() => {});
    await settle();
    stop();
    await pass(999);
    conversation.subscribe(() => {})();
    await pass(999);
    expect(types()).not.toContain("conversation.leave");
    await pass(1);
    expect(types()).toContain("conversation.leave");
    FakeSocket.last.say(script("c1", "r1").created());
    expect(conversation.view.thread).toEqual([]);
  });

  test("of what was deleted meanwhile ends, and does not make it anew", async () => {
    const { conversation, socket } = await ready();
    const turn = conversation.turn("r1");
    socket.say(script("c1", "r1").created());
    socket.end();
    const next = await comeBack(30_000, {
      type: "error",
      ref: "resume.0",
      code: "not_found",
      message: "",
      retryable: false,
    });
    expect(conversation.view.status).toBe("deleted");
    expect(turn.error?.code).toBe("not_found");
    expect(types(next)).not.toContain("conversation.open");
  });

  test("of more than the resume holds is asked for one by one", async () => {
    serve();
    const client = make({ queue: { entries: 1000 } });
    for (let n = 0; n < 70; n++) client.conversation(`c${n}`).subscribe(() => {});
    await settle();
    serve(() => null);
    FakeSocket.last.end();
    await pass(30_000);
    expect(FakeSocket.last.heard("hello").resume).toHaveLength(64);
    expect(types().filter((type) => type === "conversation.open")).toHaveLength(6);
  });
});

describe("connections", () => {
  test("never two live ones: the old one's last words are not heard", async () => {
    const { conversation, socket } = await ready();
    const log = script("c1", "r1");
    const say = socket.onmessage;
    socket.say(log.created());
    await pass(28_001); // the ping was not answered
    expect(socket.closedBy).toBe("client");
    say?.({ data: JSON.stringify(log.started()) });
    expect(conversation.view.active[0]?.message_id).toBeUndefined();
    await comeBack(0);
    expect(FakeSocket.alive).toHaveLength(1);
  });

  test("goaway moves to the next one without a gap", async () => {
    const { client, conversation, socket } = await ready();
    const states: string[] = [];
    client.on("status", ({ state }) => states.push(state));
    socket.say({ type: "goaway", reason: "shutdown", deadline_ms: 10_000, retry_after_ms: 300 });
    await pass(300);
    const next = FakeSocket.last;
    expect(next).not.toBe(socket);
    const log = script("c1", "r1");
    socket.say(log.created()); // still heard here
    next.open();
    await settle();
    const { resume } = next.heard("hello");
    expect(resume).toEqual([{ conversation_id: "c1", since: { epoch: "e1", seq: 1 } }]);
    next.say(welcome(), ...withRef("resume.0", 1, "live"), log.started());
    expect(socket.closedBy).toBe("client");
    expect(conversation.view.active[0]?.message_id).toBe("a-r1");
    expect(states).toEqual(["open"]);
  });

  test("a token that has expired is asked for with the reason", async () => {
    const token = vi.fn(() => "t");
    const { client, socket } = await ready({ token });
    socket.end(4401, "token expired");
    await settle();
    expect(token).toHaveBeenLastCalledWith({ reason: "expired" });
    await comeBack(0);
    expect(client.status.state).toBe("open");
  });

  test("a token is renewed in place, and what it kept back is sent", async () => {
    const reasons: string[] = [];
    const now = Date.now();
    serve(({ type, id }) => {
      if (type === "hello") return welcome({ server_time: now, expires_at: now + 10_000 });
      if (type === "auth.refresh") return { type: "ack", ref: id as string, expires_at: Date.now() + 10_000 };
      return null;
    });
    const token = ({ reason }: { reason: string }) => `t${reasons.push(reason)}`;
    const client = make({ token });
    client.connect();
    await pass(17_000);
    expect(reasons).toEqual(["connect", "refresh", "refresh"]);
    expect(FakeSocket.all).toHaveLength(1);
  });

  test("a code that says not to come back stops, loudly, and can be started again", async () => {
    const { client, conversation, socket } = await ready();
    const turn = conversation.send("Hi");
    socket.end(4500, "protocol violation");
    expect(client.status).toMatchObject({ state: "closed", code: 4500, reason: "protocol violation" });
    await expect(turn.result()).rejects.toMatchObject({ code: "closed" });
    await pass(100_000);
    expect(FakeSocket.all).toHaveLength(1);
    client.connect();
    await comeBack(0);
    expect(client.status.state).toBe("open");
  });

  test("a frame that cannot be read brings a new connection, which brings it again", async () => {
    const { client, socket } = await ready();
    socket.onmessage?.({ data: "{broken" });
    expect(client.status.state).toBe("waiting");
    expect(socket.closedBy).toBe("client");
    await comeBack();
    expect(client.status.state).toBe("open");
  });

  test("what a listener throws is its own affair", async () => {
    const { client, conversation, socket } = await ready();
    conversation.subscribe(() => {
      throw new Error("of a listener");
    });
    const shown = vi.spyOn(console, "error").mockReturnValue();
    socket.say(script("c1", "r1").created());
    expect(shown).toHaveBeenCalledWith(new Error("of a listener"));
    expect(conversation.view.active).toHaveLength(1);
    expect(client.status.state).toBe("open");
  });
});

test("an abort signal is let go when the turn is over", async () => {
  const { conversation, socket } = await ready();
  const abort = new AbortController();
  const removed = vi.spyOn(abort.signal, "removeEventListener");
  const turn = conversation.send("Hi", { id: "r1", signal: abort.signal });
  await settle();
  const log = script("c1", "r1");
  socket.say(
    { type: "ack", ref: socket.heard("request.create").id as string },
    log.created(),
    log.started(),
    log.completed("Yes"),
  );
  await turn.result();
  expect(removed).toHaveBeenCalledOnce();
  abort.abort();
  await settle();
  expect(types(socket)).not.toContain("request.cancel");
});

test("an abort signal that has fired already keeps the turn from being sent", async () => {
  const turn = make().conversation("c1").send("Hi", { signal: AbortSignal.abort() });
  expect(turn.state).toBe("cancelled");
});

function active(request_id: string, words: string, last_seq: number) {
  const input = (script("c1", request_id).created() as Extract<ServerMessage, { type: "message.created" }>).message;
  return {
    request_id,
    conversation_id: "c1",
    state: "streaming" as const,
    run: 1,
    last_seq,
    created_at: 1000,
    message_id: `a-${request_id}`,
    input,
    message: answer(request_id, words, "partial"),
  };
}

function withRef(ref: string, seq: number, verdict: "live" | "snapshot" = "snapshot"): ServerMessage[] {
  const [about] = opened(ref, "c1", "e1", seq);
  return [{ ...(about as Extract<ServerMessage, { type: "conversation.opened" }>), verdict }];
}
