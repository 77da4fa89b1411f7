// @vitest-environment jsdom
// The AI SDK's `useChat` and assistant-ui's runtime, unmodified, over a server that the test drives by hand.
import { Chat, useChat } from "@ai-sdk/react";
import { type AssistantRuntime, AssistantRuntimeProvider } from "@assistant-ui/react";
import { act, cleanup, render, screen } from "@testing-library/react";
import { StrictMode } from "react";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { turnwire } from "../../src/ai-sdk.js";
import { useTurnwireRuntime } from "../../src/assistant-ui.js";
import { type Client, connect } from "../../src/index.js";
import { TurnwireProvider } from "../../src/react.js";
import { pass } from "../support/clock.js";
import { FakeSocket, script, serve } from "../support/fake.js";

let client: Client;
const settle = (ms = 0) => act(() => pass(ms));
const last = () => FakeSocket.last;

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  serve();
  client = connect("ws://fake/v1", { WebSocket: FakeSocket, storage: false });
});
afterEach(async () => {
  cleanup();
  client.close();
  await pass(2000);
  vi.useRealTimers();
});

function Chatting() {
  const { messages, status, sendMessage, stop } = useChat({ id: "c1", transport: turnwire(client) });
  return (
    <main>
      <button type="button" onClick={() => sendMessage({ text: "Hi" })}>
        send
      </button>
      <button type="button" onClick={() => stop()}>
        stop
      </button>
      <output data-testid="status">{status}</output>
      {messages.map(({ id, role, parts }) => (
        <p key={id}>{`${role}: ${parts.map((part) => (part.type === "text" ? part.text : "")).join("")}`}</p>
      ))}
    </main>
  );
}

let runtime: AssistantRuntime;

function Thread() {
  runtime = useTurnwireRuntime("c1");
  return <AssistantRuntimeProvider runtime={runtime}>{null}</AssistantRuntimeProvider>;
}

describe("the AI SDK", () => {
  const lines = () => screen.queryAllByText(/^(user|assistant): /).map(({ textContent }) => textContent);

  test("useChat streams, and stop cancels", async () => {
    render(
      <StrictMode>
        <Chatting />
      </StrictMode>,
    );
    act(() => screen.getByText("send").click());
    await settle(20);
    const { request_id } = last().heard("request.create");
    const log = script("c1", request_id);
    last().say(log.created("Hi"), log.started(), log.delta(0, "Hel"));
    await settle(20);
    expect(lines()).toEqual(["user: Hi", "assistant: Hel"]);
    expect(screen.getByTestId("status").textContent).toBe("streaming");
    last().say(log.delta(3, "lo"));
    await settle(20);
    expect(lines()).toEqual(["user: Hi", "assistant: Hello"]);
    act(() => screen.getByText("stop").click());
    await settle(20);
    expect(last().heard("request.cancel").request_id).toBe(request_id);
    expect(screen.getByTestId("status").textContent).toBe("ready");
  });

  test("what was taken back is said to be so, and the text comes anew behind it", async () => {
    const marks: unknown[] = [];
    const chat = new Chat({
      id: "c1",
      transport: turnwire(client),
      onData: ({ type, data }) => type === "data-turnwire-reset" && marks.push(data),
    });
    const sent = chat.sendMessage({ text: "Tell me", messageId: undefined });
    await settle();
    const { request_id } = last().heard("request.create");
    expect(request_id).toBe(chat.messages[0]?.id);
    const log = script("c1", request_id);
    last().say(log.created(), log.started(), log.delta(0, "Half an ans"));
    await settle();
    last().say(log.event("part.reset", { part: 0, offset: 0 }), log.delta(0, "Whole"));
    await settle();
    last().say(log.completed("Whole answer"));
    await settle();
    await sent;
    expect(marks).toEqual([{ parts: 0 }]);
    const texts = chat.messages.at(-1)?.parts.flatMap((part) => (part.type === "text" ? part.text : []));
    expect(texts).toEqual(["Half an ans", "Whole answer"]);
  });
});

describe("assistant-ui", () => {
  const shown = () =>
    runtime.thread.getState().messages.map(({ role, content, status }) => {
      const text = content.map((part) => ("text" in part ? part.text : part.type)).join("|");
      return `${role}: ${text}${status ? ` (${status.type})` : ""}`;
    });

  async function open() {
    render(
      <StrictMode>
        <TurnwireProvider client={client}>
          <Thread />
        </TurnwireProvider>
      </StrictMode>,
    );
    await settle(20);
  }

  async function ask(words = "Hi", seq = 0) {
    act(() => void runtime.thread.append(words));
    await settle(20);
    const { request_id } = last().heard("request.create");
    return script("c1", request_id, seq);
  }

  test("appends, shows what streams, and ends", async () => {
    await open();
    const log = await ask();
    expect(shown()[0]).toBe("user: Hi");
    act(() => last().say(log.created("Hi"), log.started(), log.delta(0, "Hel")));
    await settle(20);
    expect(shown()).toEqual(["user: Hi", "assistant: Hel (running)"]);
    expect(runtime.thread.getState().isRunning).toBe(true);
    act(() => last().say(log.delta(3, "lo"), log.completed("Hello")));
    await settle(20);
    expect(shown()).toEqual(["user: Hi", "assistant: Hello (complete)"]);
    expect(runtime.thread.getState().isRunning).toBe(false);
  });

  test("cancels what runs", async () => {
    await open();
    const log = await ask();
    act(() => last().say(log.created("Hi"), log.started(), log.delta(0, "Hel")));
    await settle(20);
    act(() => void runtime.thread.cancelRun());
    await settle(20);
    expect(last().heard("request.cancel").request_id).toBe(last().heard("request.create").request_id);
  });

  test("asks for the answer anew, and edits", async () => {
    await open();
    const log = await ask();
    act(() => last().say(log.created("Hi"), log.started(), log.completed("Hello")));
    await settle(20);
    const [user] = runtime.thread.getState().messages;
    act(() => void runtime.thread.startRun({ parentId: user?.id as string }));
    await settle(20);
    expect(last().heard("request.regenerate").message_id).toBe(user?.id);
    act(() => {
      const composer = runtime.thread.getMessageById(user?.id as string).composer;
      composer.beginEdit();
      composer.setText("Hi, better");
      void composer.send();
    });
    await settle(20);
    expect(last().heard("request.create")).toMatchObject({ input: "Hi, better", parent_id: null });
  });

  test("approves a tool's call", async () => {
    await open();
    const log = await ask();
    const call = { call_id: "k1", where: "server" };
    act(() =>
      last().say(
        log.created("Hi"),
        log.started(),
        log.event("tool.started", { ...call, part: 0, name: "pay", interruptible: false, side_effect: true }),
        log.event("tool.called", { ...call, arguments: { euro: 5 } }),
        log.event("tool.approval_required", { call_id: "k1", expires_at: 1, arguments: { euro: 5 } }),
      ),
    );
    await settle(20);
    const message = runtime.thread.getState().messages.at(-1);
    const part = message?.content[0];
    expect(part).toMatchObject({ type: "tool-call", toolName: "pay", args: { euro: 5 }, approval: { id: "k1" } });
    act(
      () =>
        void runtime.thread
          .getMessageById(message?.id as string)
          .getMessagePartByToolCallId("k1")
          .respondToToolApproval({ approved: true }),
    );
    await settle(20);
    expect(last().heard("tool.approve")).toMatchObject({ call_id: "k1" });
  });
});
