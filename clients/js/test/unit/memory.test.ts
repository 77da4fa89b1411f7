// What survives a reload, in a store that the test holds; and who may use it.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type Client, type ConnectOptions, connect, type Store } from "../../src/index.js";
import { pass } from "../support/clock.js";
import { FakeSocket, script, serve, welcome } from "../support/fake.js";

class FakeStore implements Store {
  readonly items: Map<string, string>;
  most = Number.POSITIVE_INFINITY;

  /** A duplicated tab begins with a copy. */
  constructor(copied?: FakeStore) {
    this.items = new Map(copied?.items);
  }

  getItem = (key: string) => this.items.get(key) ?? null;
  removeItem = (key: string) => void this.items.delete(key);
  setItem(key: string, value: string) {
    if (value.length > this.most) throw new Error("QuotaExceededError");
    this.items.set(key, value);
  }
}

/** Locks of one origin, as the Web Locks API has them. */
class FakeLocks {
  #held = new Set<string>();

  async request(name: string, { signal }: { signal: AbortSignal }, held: () => Promise<void>): Promise<void> {
    while (this.#held.has(name)) {
      if (signal.aborted) throw new Error("AbortError");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    this.#held.add(name);
    await held().finally(() => this.#held.delete(name));
  }
}

const clients: Client[] = [];
let store: FakeStore;
const load = (options: ConnectOptions = {}) => {
  const client = connect("ws://fake/v1", { WebSocket: FakeSocket, storage: store, ...options });
  clients.push(client);
  return client;
};
const settle = () => pass(0);

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  store = new FakeStore();
  serve();
});
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

/** A page that has seen half an answer, and is gone without a word. */
async function halfway(): Promise<void> {
  const client = load();
  const turn = client.conversation("c1").send("Hi", { id: "r1" });
  await settle();
  const log = script("c1", "r1");
  FakeSocket.last.say(log.created("Hi"), log.started(), log.delta(0, "Hel"));
  expect(turn.text).toBe("Hel");
  await pass(250);
}

describe("a page that is loaded again", () => {
  test("shows at once what was there, and goes on from its cursor", async () => {
    await halfway();
    const client = load();
    const turn = client.conversation("c1").turn("r1");
    expect(turn).toMatchObject({ text: "Hel", state: "streaming" });
    await settle();
    expect(FakeSocket.last.heard("hello").resume).toEqual([{ conversation_id: "c1", since: { epoch: "e1", seq: 3 } }]);
    const log = script("c1", "r1", 3);
    FakeSocket.last.say(log.delta(3, "lo"), log.completed("Hello"));
    expect(await turn.result()).toMatchObject({ state: "completed", text: "Hello" });
  });

  test("knows which turns are open", async () => {
    await halfway();
    const [turn] = load().openTurns();
    expect(turn).toMatchObject({ id: "r1", text: "Hel", conversation: { id: "c1" } });
    await settle();
    const log = script("c1", "r1", 3);
    FakeSocket.last.say(log.completed("Hello"));
    await pass(250);
    expect(load().openTurns()).toEqual([]);
  });

  test("sends what could not be sent", async () => {
    FakeSocket.born = () => {}; // no connection
    load().conversation("c1").send("Later", { id: "r1" });
    await pass(250);
    serve();
    const again = load();
    const turn = again.conversation("c1").turn("r1");
    await settle();
    expect(FakeSocket.last.heard("request.create")).toMatchObject({ request_id: "r1", input: "Later" });
    const log = script("c1", "r1");
    FakeSocket.last.say(log.created("Later"), log.started(), log.completed("Yes"));
    expect(await turn.result()).toMatchObject({ text: "Yes" });
  });

  test("has the same name, so that its tools' claims go on", async () => {
    await halfway();
    const before = FakeSocket.last.heard("hello").client?.instance_id;
    load().connect();
    await settle();
    expect(FakeSocket.last.heard("hello").client?.instance_id).toBe(before);
  });

  test("of another user shows and sends nothing of the first one's", async () => {
    await halfway();
    FakeSocket.born = () => {};
    const offline = load();
    offline.conversation("c1").send("Secret", { id: "r2" });
    await pass(250);
    serve(({ type }) => (type === "hello" ? welcome({ user_id: "bob" }) : null));
    const client = load();
    const conversation = client.conversation("c1");
    conversation.subscribe(() => {});
    const turn = conversation.turn("r2");
    await settle();
    expect(conversation.view.thread).toEqual([]);
    expect(turn.error?.code).toBe("forbidden");
    expect(FakeSocket.last.sent.map(({ type }) => type)).not.toContain("request.create");
  });

  test("knows nothing after `forget`", async () => {
    await halfway();
    clients[0]?.close();
    load().forget();
    expect(load().openTurns()).toEqual([]);
    const client = load();
    client.conversation("c1").subscribe(() => {});
    expect(client.conversation("c1").view.thread).toEqual([]);
  });
});

describe("a duplicated tab", () => {
  test("takes a name of its own, keeps what is shown and sends nothing", async () => {
    vi.stubGlobal("navigator", { locks: new FakeLocks(), onLine: true });
    await halfway();
    const first = FakeSocket.last.heard("hello").client?.instance_id;
    FakeSocket.last.hears = () => {}; // the next one is not acknowledged
    clients[0]?.conversation("c1").send("Mine", { id: "r2" });
    await pass(250);
    store = new FakeStore(store);
    const copy = load();
    const turn = copy.conversation("c1").turn("r1");
    expect(turn.text).toBe("Hel");
    await pass(400);
    const socket = FakeSocket.last;
    expect(socket.heard("hello").client?.instance_id).not.toBe(first);
    expect(socket.sent.map(({ type }) => type)).not.toContain("request.create");
  });

  test("a page that is loaded again keeps its name, though its lock is let go a little late", async () => {
    const locks = new FakeLocks();
    vi.stubGlobal("navigator", { locks, onLine: true });
    await halfway();
    const first = FakeSocket.last.heard("hello").client?.instance_id;
    load().connect();
    await pass(100);
    clients[0]?.close();
    await pass(100);
    expect(FakeSocket.last.heard("hello").client?.instance_id).toBe(first);
  });
});

describe("a store", () => {
  test("that is full or broken only means that less is known", async () => {
    store.most = 10;
    await halfway();
    expect(load().openTurns()).toEqual([]);
    store.items.set("turnwire ws://fake/v1", "{broken");
    expect(() => load()).not.toThrow();
  });

  test("keeps the conversations last used", async () => {
    const client = load();
    for (let n = 0; n < 20; n++) {
      client.conversation(`c${n}`).subscribe(() => {});
      await pass(250);
      const log = script(`c${n}`, `r${n}`);
      FakeSocket.last.say(log.created());
      await pass(250);
    }
    const kept = [...store.items.keys()].filter((key) => key.includes(" c"));
    expect(kept).toHaveLength(16);
    expect(kept.at(-1)).toContain("c19");
  });
});
