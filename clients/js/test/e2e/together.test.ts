// What clients do beside asking: tools that run here, approvals, presence, shared context, segments, roles.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { CallContext } from "../../src/index.js";
import { callTool, gate, hold } from "../support/provider.js";
import { type Stand, startStand, token } from "../support/server.js";
import { until, untilState } from "../support/wait.js";

let stand: Stand;
beforeAll(async () => {
  stand = await startStand({ limits: { snapshot_messages: 2, commands_per_s: 10_000 } });
});
afterAll(() => stand.stop());

let count = 0;
const fresh = (client = stand.client()) => client.conversation(`together-${count++}`);
const as = (user: string) => ({ token: () => token(user) });
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { name: "weather", description: "The weather in a city", parameters };

describe("a tool of this client", () => {
  test("runs here, and its result is in the answer", async () => {
    const calls: unknown[] = [];
    const client = stand.client({
      tools: [
        {
          ...weather,
          run: (args: { city: string }, { turn }: CallContext) => {
            calls.push([args, turn.id]);
            return { sky: "clear" };
          },
        },
      ],
    });
    stand.provider.scripts.push(
      async function* () {
        yield callTool("weather", { city: "Ulm" });
      },
      async function* (asked) {
        yield `The tool said ${asked.messages.at(-1).content}`;
      },
    );
    const turn = fresh(client).send("Weather?");
    expect((await turn.result()).text).toContain('{"sky":"clear"}');
    expect(calls).toEqual([[{ city: "Ulm" }, turn.id]]);
  });

  test("that throws is told to the model", async () => {
    const client = stand.client({
      tools: [
        {
          ...weather,
          run: () => {
            throw new Error("no satellites");
          },
        },
      ],
    });
    stand.provider.scripts.push(
      async function* () {
        yield callTool("weather", { city: "Ulm" });
      },
      async function* (asked) {
        yield asked.messages.at(-1).content;
      },
    );
    const turn = fresh(client).send("Weather?");
    expect((await turn.result()).text).toContain("no satellites");
  });

  test("runs once, though two tabs of the user have it, and over a cut", async () => {
    let runs = 0;
    const running = gate();
    const run = async () => {
      runs += 1;
      await running.pass();
      return "done";
    };
    const [first, second] = [
      stand.client({ tools: [{ ...weather, run }] }),
      stand.client({ tools: [{ ...weather, run }] }),
    ];
    const conversation = fresh(first);
    await conversation.open();
    await second.conversation(conversation.id).open();
    stand.provider.scripts.push(async function* () {
      yield callTool("weather", { city: "Ulm" });
    });
    const turn = conversation.send("Weather?");
    await running.reached;
    stand.cutter.cut();
    running.open();
    for (const client of [first, second]) client.connect();
    expect((await turn.result()).state).toBe("completed");
    expect(runs).toBe(1);
  });

  test("is told when nobody waits for it any more", async () => {
    const running = gate();
    const aborted = gate();
    const run = async (_: unknown, { signal }: CallContext) => {
      signal.addEventListener("abort", () => {
        aborted.open();
        running.open();
      });
      await running.pass();
    };
    const client = stand.client({ tools: [{ ...weather, interruptible: true, run }] });
    stand.provider.scripts.push(async function* () {
      yield callTool("weather", { city: "Ulm" });
    });
    const turn = fresh(client).send("Weather?");
    await running.reached;
    await turn.cancel();
    expect((await turn.result()).state).toBe("cancelled");
    await aborted.pass();
  });
});

describe("an approval", () => {
  const tool = { ...weather, approval: "required" as const, run: (args: { city: string }) => `sun in ${args.city}` };
  const ask = () =>
    stand.provider.scripts.push(
      async function* () {
        yield callTool("weather", { city: "Ulm" });
      },
      async function* (asked) {
        yield asked.messages.at(-1).content;
      },
    );

  test("is a promise: yes, with other arguments", async () => {
    const client = stand.client({
      tools: [tool],
      onApproval: async ({ arguments: args }) => ({ arguments: { ...args, city: "Bern" } }),
    });
    ask();
    expect((await fresh(client).send("Weather?").result()).text).toContain("sun in Bern");
  });

  test("no, with a reason", async () => {
    const client = stand.client({ tools: [tool], onApproval: () => "not today" });
    ask();
    const turn = fresh(client).send("Weather?");
    const { message } = await turn.result();
    expect(message?.parts.find((part) => part.kind === "tool_call")).toMatchObject({ state: "failed" });
  });

  test("can be given in another tab", async () => {
    const client = stand.client({ tools: [tool] });
    ask();
    const turn = fresh(client).send("Weather?");
    await until(turn.conversation, () => turn.state === "waiting_approval");
    const other = stand.client().conversation(turn.conversation.id).turn(turn.id);
    await until(other.conversation, () => other.state === "waiting_approval");
    const call = other.parts.find((part) => part.kind === "tool_call");
    await other.approve(call?.call_id as string);
    expect((await turn.result()).text).toContain("sun in Ulm");
  });
});

test("who is present is seen, with a state, until they leave", async () => {
  const mine = fresh(stand.client(as("ann")));
  mine.options = { visibility: "tenant" };
  await mine.open();
  const theirs = stand.client(as("bob")).conversation(mine.id);
  theirs.setPresence({ cursor: 7 });
  await until(mine, () => mine.view.present.some(({ user_id, state }) => user_id === "bob" && state));
  expect(mine.view.present.find(({ user_id }) => user_id === "bob")?.state).toEqual({ cursor: 7 });
  theirs.client.close();
  await until(mine, () => !mine.view.present.some(({ user_id }) => user_id === "bob"));
});

test("what is shared is in the next prompt, and the slower of two is told so", async () => {
  const mine = fresh(stand.client(as("ann")));
  mine.options = { visibility: "tenant" };
  await mine.open();
  const theirs = stand.client(as("bob")).conversation(mine.id);
  await theirs.open();
  await mine.setContext("doc", "The text of ann");
  await until(theirs, () => theirs.view.context.doc);
  expect(theirs.view.context.doc).toMatchObject({ value: "The text of ann", version: 0, by: "ann" });
  await theirs.setContext("doc", "The text of bob");
  await expect(mine.setContext("doc", "Too late", 0)).rejects.toMatchObject({
    code: "stale_version",
    details: { version: 1 },
  });
  await theirs.send("Look").result();
  expect(JSON.stringify(stand.provider.asked.at(-1))).toContain("The text of bob");
});

test("segments tile the text, also over a cut", async () => {
  const held = hold(stand.provider, "One sentence. Another sen", "tence. The last one.");
  const turn = fresh().send("Speak", { segments: { unit: "sentence" } });
  const spoken: string[] = [];
  for await (const event of turn) {
    if (event.type !== "output_text.segment") continue;
    spoken.push(event.text);
    if (spoken.length > 1) continue;
    stand.cutter.cut();
    await untilState(turn.conversation.client, "waiting", "connecting");
    held.open();
  }
  expect(spoken.join("")).toBe("One sentence. Another sentence. The last one.");
  expect(spoken[0]).toBe("One sentence. ");
});

test("a conversation of somebody else is denied, and shared it is not", async () => {
  const mine = fresh(stand.client(as("ann")));
  await mine.open();
  const theirs = stand.client(as("bob")).conversation(mine.id);
  await expect(theirs.open()).rejects.toMatchObject({ code: "forbidden" });
  expect(theirs.view.status).toBe("denied");
  await mine.share("bob", "viewer");
  await theirs.open();
  expect(theirs.view.role).toBe("viewer");
  await expect(theirs.send("May I?").result()).rejects.toMatchObject({ code: "forbidden" });
  await mine.share("bob", null);
  await until(theirs, () => theirs.view.status === "denied");
});

test("a conversation that is deleted is gone for all, with what runs in it", async () => {
  const held = hold(stand.provider, "One");
  const mine = fresh();
  const turn = mine.send("Count");
  await until(mine, () => turn.text === "One");
  const other = stand.client().conversation(mine.id);
  await other.open();
  await mine.delete();
  held.open();
  await until(other, () => other.view.status === "deleted");
  expect(other.view.thread).toEqual([]);
});

test("older messages come a page at a time", async () => {
  const writer = stand.client().conversation("long");
  await writer.open();
  for (let n = 0; n < 4; n++) await writer.send(`m${n}`).result();
  const reader = stand.client().conversation("long");
  await reader.open();
  expect(reader.view).toMatchObject({ hasOlder: true, messages: { length: 2 } });
  await reader.loadOlder(4);
  expect(reader.view.messages).toHaveLength(6);
  await reader.loadOlder();
  expect(reader.view).toMatchObject({ hasOlder: false, messages: { length: 8 } });
  const { items } = await reader.client.list();
  expect(items.map(({ conversation_id }) => conversation_id)).toContain("long");
});
