// The real server killed, restarted and drained in mid-answer; tokens that expire; pages that are loaded again.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { msgpack } from "../../src/msgpack.js";
import { hold } from "../support/provider.js";
import { type Stand, startStand, token } from "../support/server.js";
import { until, untilState } from "../support/wait.js";

let stand: Stand;
beforeAll(async () => {
  stand = await startStand({ tools: { modules: [] } });
});
afterAll(() => stand.stop());

let count = 0;
const fresh = (client = stand.client()) => client.conversation(`faults-${count++}`);

test("a server that is killed in mid-answer begins the step again, and no word is doubled", async () => {
  const held = hold(stand.provider, "Once");
  const conversation = fresh();
  const turn = conversation.send("Tell me");
  const seen: string[] = [];
  const reading = (async () => {
    let text = "";
    for await (const event of turn) {
      if (event.type === "turn.reset") text = event.text;
      else if (event.type === "output_text.delta") text = text.slice(0, event.offset) + event.text;
      else if (event.type === "part.reset") text = text.slice(0, event.offset);
      seen.push(text);
    }
    return text;
  })();
  await until(conversation, () => turn.text === "Once");
  stand.provider.scripts.push(async function* () {
    yield "Twice";
  });
  await stand.kill();
  held.open();
  await stand.up();
  conversation.client.connect();
  expect(await turn.result()).toMatchObject({ state: "completed", text: "Twice" });
  expect(await reading).toBe("Twice");
  expect(seen.some((text) => text.includes("OnceTwice"))).toBe(false);
});

test("a server that is killed between turns: the next one goes on in the same conversation", async () => {
  const conversation = fresh();
  await conversation.open();
  await conversation.send("First").result();
  await stand.kill();
  const waiting = conversation.send("Second");
  await stand.up();
  conversation.client.connect();
  expect((await waiting.result()).text).toBe("You said: Second");
  await until(conversation, () => conversation.view.messages.length === 4);
});

test("a server that drains lets the answer end on the way", async () => {
  const held = hold(stand.provider, "One", " two");
  const conversation = fresh();
  const turn = conversation.send("Count");
  await until(conversation, () => turn.text === "One");
  const told = new Promise<void>((resolve) => {
    conversation.client.on("traffic", ({ message }) => message.type === "goaway" && resolve());
  });
  const gone = stand.kill("SIGTERM");
  await told;
  held.open();
  expect((await turn.result()).text).toBe("One two");
  await gone;
  await stand.up();
});

describe("tokens", () => {
  test("are renewed in place before they expire, without a new connection", async () => {
    const reasons: string[] = [];
    const client = stand.client({
      token: ({ reason }) => {
        reasons.push(reason);
        return token("ann", 4);
      },
    });
    client.connect();
    await untilState(client, "open");
    const states: string[] = [];
    client.on("status", ({ state }) => states.push(state));
    const renewed = new Promise<void>((resolve) => {
      client.on("traffic", ({ message }) => message.type === "ack" && message.expires_at && resolve());
    });
    await renewed;
    expect(reasons).toEqual(["connect", "refresh"]);
    expect(states).toEqual([]);
    expect((await fresh(client).send("Still here").result()).state).toBe("completed");
  });

  test("that have expired are fetched anew, and the turn goes on", async () => {
    const reasons: string[] = [];
    const client = stand.client({
      token: ({ reason }) => {
        reasons.push(reason);
        if (reason === "refresh") throw new Error("the renewal does not work today");
        return token("ann", reasons.length === 1 ? 1 : 3600);
      },
    });
    const held = hold(stand.provider, "One", " two");
    const turn = fresh(client).send("Count");
    await until(turn.conversation, () => turn.text === "One");
    await untilState(client, "connecting", "waiting");
    held.open();
    expect((await turn.result()).text).toBe("One two");
    expect(reasons.filter((reason) => reason !== "refresh")).toEqual(["connect", "expired"]);
  });

  test("that are no good are asked for again once, and then it is said", async () => {
    const reasons: string[] = [];
    const client = stand.client({
      token: ({ reason }) => {
        reasons.push(reason);
        return reasons.length < 3 ? "no token" : token();
      },
    });
    client.connect();
    await untilState(client, "unauthorized");
    expect(client.status.code).toBe(4501);
    expect(reasons).toEqual(["connect", "rejected"]);
    client.connect();
    await untilState(client, "open");
  });
});

test("a page that is loaded again goes on where it was", async () => {
  const items = new Map<string, string>();
  const storage = {
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (key: string, value: string) => void items.set(key, value),
    removeItem: (key: string) => void items.delete(key),
  };
  const held = hold(stand.provider, "One", " two");
  const page = stand.client({ storage });
  const turn = fresh(page).send("Count");
  await until(turn.conversation, () => turn.text === "One");
  page.close();
  const again = stand.client({ storage });
  const [open] = again.openTurns();
  expect(open).toMatchObject({ id: turn.id, text: "One" });
  const verdict = new Promise((resolve) => {
    again.on("traffic", ({ message }) => message.type === "conversation.opened" && resolve(message.verdict));
  });
  held.open();
  expect((await open?.result())?.text).toBe("One two");
  expect(await verdict).not.toBe("snapshot");
});

test("MessagePack says the same", async () => {
  const client = stand.client({ codec: () => Promise.resolve(msgpack) });
  const turn = fresh(client).send("Grüße 😀", { metadata: { a: [1, null, -5, 2.5] } });
  let text = "";
  for await (const event of turn) if (event.type === "output_text.delta") text += event.text;
  expect(text).toBe("You said: Grüße 😀");
});
