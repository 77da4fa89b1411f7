// @vitest-environment jsdom
// The hooks in a real React, in StrictMode, with a server that the test drives by hand.
import { act, cleanup, render, screen } from "@testing-library/react";
import { StrictMode, useState } from "react";
import { hydrateRoot } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { connect, type Turn } from "../../src/index.js";
import { TurnwireProvider, useConversation, usePresence, useStatus, useTurn } from "../../src/react.js";
import { pass } from "../support/clock.js";
import { FakeSocket, script, serve } from "../support/fake.js";

const options = { WebSocket: FakeSocket, storage: false as const };
const settle = (ms = 0) => act(() => pass(ms));

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  serve();
});
afterEach(async () => {
  cleanup();
  await pass(2000);
  vi.useRealTimers();
});

function Chat({ id = "c1" }: { id?: string }) {
  const { thread, send, status } = useConversation(id);
  const [turn, setTurn] = useState<Turn>();
  const { state } = useTurn(turn);
  return (
    <main>
      <button type="button" onClick={() => setTurn(send("Hi", { id: "r1" }))}>
        send
      </button>
      <output data-testid="state">{turn ? state : status}</output>
      {thread.map(({ message_id, role, parts }) => (
        <p key={message_id}>
          {role}: {parts.map((part) => (part.kind === "text" ? part.text : "")).join("")}
        </p>
      ))}
    </main>
  );
}

function Answer() {
  const { text, state } = useTurn("c1", "r9");
  return (
    <output data-testid="answer">
      {state} {text}
    </output>
  );
}

const typing = { typing: true };
function People() {
  const present = usePresence("c1", typing);
  return <output data-testid="people">{present.map(({ user_id }) => user_id).join()}</output>;
}

let renders = 0;
function Counted() {
  useConversation("c1");
  renders += 1;
  return null;
}

const lines = () => screen.queryAllByText(/^(user|assistant): /).map(({ textContent }) => textContent);

test("a conversation is shown as it grows, and StrictMode opens one socket", async () => {
  render(
    <StrictMode>
      <TurnwireProvider url="ws://fake/v1" options={options}>
        <Chat />
      </TurnwireProvider>
    </StrictMode>,
  );
  await settle();
  expect(FakeSocket.all).toHaveLength(1);
  expect(screen.getByTestId("state").textContent).toBe("live");
  act(() => screen.getByText("send").click());
  expect(lines()).toEqual(["user: Hi"]);
  expect(screen.getByTestId("state").textContent).toBe("sending");
  await settle();
  const log = script("c1", "r1");
  act(() => FakeSocket.last.say(log.created("Hi"), log.started(), log.delta(0, "Hel")));
  expect(lines()).toEqual(["user: Hi", "assistant: Hel"]);
  act(() => FakeSocket.last.say(log.delta(3, "lo"), log.completed("Hello")));
  expect(lines()).toEqual(["user: Hi", "assistant: Hello"]);
  expect(screen.getByTestId("state").textContent).toBe("completed");
});

test("the socket is closed a moment after the tree is gone, and not when it is only put up again", async () => {
  const tree = (
    <StrictMode>
      <TurnwireProvider url="ws://fake/v1" options={options}>
        <Chat />
      </TurnwireProvider>
    </StrictMode>
  );
  const { unmount } = render(tree);
  await settle(5000);
  expect(FakeSocket.alive).toHaveLength(1);
  unmount();
  await settle(5000);
  expect(FakeSocket.alive).toHaveLength(0);
});

test("another conversation is followed, and the first one left", async () => {
  const client = connect("ws://fake/v1", options);
  const tree = (id: string) => (
    <TurnwireProvider client={client}>
      <Chat id={id} />
    </TurnwireProvider>
  );
  const { rerender } = render(tree("c1"));
  await settle();
  rerender(tree("c2"));
  await settle(2000);
  expect(FakeSocket.last.heard("conversation.open").conversation_id).toBe("c2");
  expect(FakeSocket.last.heard("conversation.leave").conversation_id).toBe("c1");
  client.close();
});

test("a turn is found by its ids", async () => {
  const client = connect("ws://fake/v1", options);
  render(
    <StrictMode>
      <TurnwireProvider client={client}>
        <Answer />
      </TurnwireProvider>
    </StrictMode>,
  );
  await settle();
  const log = script("c1", "r9");
  act(() => FakeSocket.last.say(log.created("Hi"), log.started(), log.delta(0, "Found")));
  expect(screen.getByTestId("answer").textContent).toBe("streaming Found");
  client.close();
});

test("who is there is shown, and this user's state is told", async () => {
  const client = connect("ws://fake/v1", options);
  render(
    <TurnwireProvider client={client}>
      <People />
    </TurnwireProvider>,
  );
  await settle(200);
  expect(FakeSocket.last.heard("presence.set").state).toEqual(typing);
  act(() =>
    FakeSocket.last.say({
      type: "presence.changed",
      conversation_id: "c1",
      joined: [{ user_id: "bob" }],
      left: [],
      changed: [],
    }),
  );
  expect(screen.getByTestId("people").textContent).toBe("bob");
  client.close();
});

function State() {
  return <output data-testid="connection">{useStatus().state}</output>;
}

test("on a server nothing is opened, and the page takes over what it was given", async () => {
  const tree = (
    <TurnwireProvider url="ws://fake/v1" options={options}>
      <Chat />
      <State />
    </TurnwireProvider>
  );
  const html = renderToString(tree);
  expect(html).toContain("idle");
  await settle(1000);
  expect(FakeSocket.all).toHaveLength(0);
  const place = document.createElement("div");
  document.body.append(place);
  place.innerHTML = html;
  const faults = vi.spyOn(console, "error");
  const root = await act(async () => hydrateRoot(place, tree));
  await settle();
  expect(faults).not.toHaveBeenCalled();
  expect(screen.getByTestId("connection").textContent).toBe("open");
  act(() => root.unmount());
  place.remove();
});

test("a view that has not changed renders nothing anew", async () => {
  const client = connect("ws://fake/v1", options);
  renders = 0;
  render(
    <TurnwireProvider client={client}>
      <Counted />
    </TurnwireProvider>,
  );
  await settle();
  const before = renders;
  await act(async () => FakeSocket.last.say({ type: "pong", server_time: 1 }));
  await settle(30_000);
  expect(renders).toBe(before);
  client.close();
});
