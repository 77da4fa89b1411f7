// What a page is told while it is busy reaches it all at once: answers, snapshots and events in one frame.
import { Chat } from "@ai-sdk/react";
import { afterAll, beforeAll, expect, test } from "vitest";
import { turnwire } from "../../src/ai-sdk.js";
import type { CallContext, ConnectOptions } from "../../src/index.js";
import { Bunched } from "../support/bunched.js";
import { callTool, gate, hold } from "../support/provider.js";
import { type Stand, startStand, token } from "../support/server.js";

let stand: Stand;
beforeAll(async () => {
  stand = await startStand();
});
afterAll(() => stand.stop());

let count = 0;
const busy = (options?: ConnectOptions) => stand.client({ WebSocket: Bunched, ...options });
const fresh = (client = busy()) => client.conversation(`bunched-${count++}`);
const parameters = { type: "object", properties: {} };

test("a reader has what a snapshot shows, though the end comes with it", async () => {
  const turn = fresh().send("All of it");
  let text = "";
  for await (const event of turn)
    if (event.type === "output_text.delta") text += event.text;
    else if (event.type === "turn.reset") text = event.text;
  expect(text).toBe("You said: All of it");
});

test("a connection that is lost brings nothing twice", async () => {
  const held = hold(stand.provider, "One", " two");
  const turn = fresh().send("Count");
  let text = "";
  for await (const event of turn) {
    if (event.type === "turn.reset") text = event.text;
    else if (event.type === "output_text.delta") text += event.text;
    if (text !== "One") continue;
    stand.cutter.cut();
    held.open();
  }
  expect(text).toBe("One two");
});

test("a tool is told that nobody waits for it, though its turn ends with it", async () => {
  const running = gate();
  const aborted = gate();
  const run = async (_: unknown, { signal }: CallContext) => {
    signal.addEventListener("abort", () => {
      aborted.open();
      running.open();
    });
    await running.pass();
  };
  stand.provider.scripts.push(async function* () {
    yield callTool("wait", {});
  });
  const client = busy({ tools: [{ name: "wait", description: "Waits", parameters, interruptible: true, run }] });
  const turn = fresh(client).send("Wait");
  await running.reached;
  await turn.cancel();
  await aborted.pass();
});

test("a chat is asked for an approval that it learns of by a snapshot", async () => {
  const tool = { name: "weather", description: "The weather", parameters, approval: "required" as const, run: () => 1 };
  stand.provider.scripts.push(
    async function* () {
      yield callTool("weather", {});
    },
    async function* () {
      yield "It is sunny.";
    },
  );
  const chat = new Chat({ id: `bunched-${count++}`, transport: turnwire(busy({ tools: [tool] })) });
  await chat.sendMessage({ text: "Weather?" });
  const asked = chat.messages.at(-1)?.parts.find(({ type }) => type === "dynamic-tool");
  expect(asked).toMatchObject({ state: "approval-requested" });
});

test("who has just been let in sees their role", async () => {
  const mine = fresh(busy({ token: () => token("ann") }));
  await mine.open();
  const theirs = busy({ token: () => token("bob") }).conversation(mine.id);
  await expect(theirs.open()).rejects.toMatchObject({ code: "forbidden" });
  await mine.share("bob", "viewer");
  await theirs.open();
  expect(theirs.view.role).toBe("viewer");
});
