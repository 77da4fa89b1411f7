// The AI SDK's own Chat, unmodified, over the transport and the real server.
import { Chat } from "@ai-sdk/react";
import { lastAssistantMessageIsCompleteWithApprovalResponses, type UIMessage } from "ai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type TransportOptions, turnwire } from "../../src/ai-sdk.js";
import type { Client } from "../../src/index.js";
import { callTool, hold } from "../support/provider.js";
import { type Stand, startStand } from "../support/server.js";
import { until } from "../support/wait.js";

let stand: Stand;
beforeAll(async () => {
  stand = await startStand();
});
afterAll(() => stand.stop());

let count = 0;
const make = (
  client: Client = stand.client(),
  options?: TransportOptions,
  id = `ai-${count++}`,
  messages?: UIMessage[],
) => {
  const chat = new Chat({
    id,
    transport: turnwire(client, options),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    ...(messages && { messages }),
  });
  return { chat, client, conversation: client.conversation(id) };
};
/** Until something about the chat is true. */
async function untilChat(chat: Chat<UIMessage>, isTrue: () => boolean): Promise<void> {
  if (isTrue()) return;
  await new Promise<void>((resolve) => {
    const look = () => isTrue() && resolve();
    chat["~registerMessagesCallback"](look);
    chat["~registerStatusCallback"](look);
  });
}

const textOf = (message?: UIMessage) => message?.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
const shape = (chat: Chat<UIMessage>) => chat.messages.map((message) => [message.role, textOf(message)]);

test("a message is answered, and another one after it", async () => {
  const { chat } = make();
  await chat.sendMessage({ text: "Hello" });
  await chat.sendMessage({ text: "Again" });
  expect(chat.status).toBe("ready");
  expect(shape(chat)).toEqual([
    ["user", "Hello"],
    ["assistant", "You said: Hello"],
    ["user", "Again"],
    ["assistant", "You said: Again"],
  ]);
});

test("stop cancels at the provider", async () => {
  const { chat } = make();
  const held = hold(stand.provider, "One", " two");
  const sent = chat.sendMessage({ text: "Count" });
  await untilChat(chat, () => textOf(chat.messages.at(-1)) === "One");
  const gone = stand.provider.gone;
  await chat.stop();
  await sent;
  await stand.provider.until(() => stand.provider.gone > gone);
  held.open();
  expect(textOf(chat.messages.at(-1))).toBe("One");
  expect(chat.status).toBe("ready");
});

test("stop only stops listening when told so, and the stream is taken up again, without a word twice", async () => {
  const { chat } = make(stand.client(), { onAbort: "detach" });
  const held = hold(stand.provider, "One", " two");
  const sent = chat.sendMessage({ text: "Count" });
  await untilChat(chat, () => textOf(chat.messages.at(-1)) === "One");
  await chat.stop();
  await sent;
  const again = make(stand.client(), {}, chat.id, chat.messages);
  const resumed = again.chat.resumeStream();
  await untilChat(again.chat, () => again.chat.status === "streaming");
  held.open();
  await resumed;
  expect(shape(again.chat)).toEqual([
    ["user", "Count"],
    ["assistant", "One two"],
  ]);
});

test("a resumed stream can be stopped", async () => {
  const { chat } = make(stand.client(), { onAbort: "detach" });
  const held = hold(stand.provider, "One", " two");
  const sent = chat.sendMessage({ text: "Count" });
  await untilChat(chat, () => textOf(chat.messages.at(-1)) === "One");
  await chat.stop();
  await sent;
  const again = make(stand.client(), {}, chat.id, chat.messages);
  const resumed = again.chat.resumeStream();
  await untilChat(again.chat, () => again.chat.status === "streaming");
  const gone = stand.provider.gone;
  await again.chat.stop();
  await resumed;
  await stand.provider.until(() => stand.provider.gone > gone);
  held.open();
});

test("nothing to resume is nothing", async () => {
  const { chat } = make();
  await chat.sendMessage({ text: "Hello" });
  await chat.resumeStream();
  expect(chat.status).toBe("ready");
  expect(chat.messages).toHaveLength(2);
});

test("a cut in mid-answer does not show", async () => {
  const { chat } = make();
  const held = hold(stand.provider, "One", " two");
  const sent = chat.sendMessage({ text: "Count" });
  await untilChat(chat, () => textOf(chat.messages.at(-1)) === "One");
  stand.cutter.cut();
  held.open();
  await sent;
  expect(textOf(chat.messages.at(-1))).toBe("One two");
});

test("an answer is given anew", async () => {
  const { chat, conversation } = make();
  await conversation.open();
  await chat.sendMessage({ text: "Which?" });
  stand.provider.scripts.push(async function* () {
    yield "Another";
  });
  await chat.regenerate();
  expect(shape(chat)).toEqual([
    ["user", "Which?"],
    ["assistant", "Another"],
  ]);
  expect(conversation.view.messages.at(-1)?.parts).toEqual([{ kind: "text", text: "Another" }]);
});

test("a message is edited: the branch begins above it", async () => {
  const { chat, conversation } = make();
  await conversation.open();
  await chat.sendMessage({ text: "First" });
  await chat.sendMessage({ text: "Second" });
  await chat.sendMessage({ text: "Second, better", messageId: chat.messages[2]?.id as string });
  await until(conversation, () => !conversation.view.active.length);
  const texts = conversation.view.messages.map(({ parts }) =>
    parts.map((part) => ("text" in part ? part.text : "")).join(""),
  );
  expect(texts).toEqual(["First", "You said: First", "Second, better", "You said: Second, better"]);
});

test("tools show with their input and output", async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tool = { name: "weather", description: "The weather", parameters, run: () => ({ sky: "clear" }) };
  const { chat } = make(stand.client({ tools: [tool] }));
  stand.provider.scripts.push(async function* () {
    yield "Let me look.";
    yield callTool("weather", { city: "Ulm" });
  });
  await chat.sendMessage({ text: "Weather?" });
  const parts = chat.messages.at(-1)?.parts ?? [];
  expect(parts.find(({ type }) => type === "dynamic-tool")).toMatchObject({
    toolName: "weather",
    state: "output-available",
    input: { city: "Ulm" },
    output: { sky: "clear" },
  });
  expect(textOf(chat.messages.at(-1))).toMatch(/^Let me look\.You said: /);
});

test("an approval is asked for in the chat, and its answer lets the turn go on", async () => {
  const parameters = { type: "object", properties: {} };
  const tool = {
    name: "weather",
    description: "The weather",
    parameters,
    approval: "required" as const,
    run: () => "sun",
  };
  const { chat } = make(stand.client({ tools: [tool] }));
  stand.provider.scripts.push(
    async function* () {
      yield callTool("weather", {});
    },
    async function* () {
      yield "It is sunny.";
    },
  );
  await chat.sendMessage({ text: "Weather?" });
  const asked = chat.messages.at(-1)?.parts.find(({ type }) => type === "dynamic-tool");
  expect(asked).toMatchObject({ state: "approval-requested" });
  const { approval } = asked as { approval: { id: string } };
  await chat.addToolApprovalResponse({ id: approval.id, approved: true });
  await untilChat(chat, () => textOf(chat.messages.at(-1)) === "It is sunny.");
  expect(shape(chat).at(-1)).toEqual(["assistant", "It is sunny."]);
  expect(chat.messages).toHaveLength(2);
});

test("what the server refuses is the chat's error", async () => {
  const { chat, conversation } = make(stand.client(), { send: { onBusy: "reject" } });
  const held = hold(stand.provider, "One", "");
  const running = conversation.send("First");
  await until(conversation, () => running.text === "One");
  await chat.sendMessage({ text: "Second" });
  expect(chat.status).toBe("error");
  expect(chat.error?.message).toBeTruthy();
  held.open();
  await running.result();
});
