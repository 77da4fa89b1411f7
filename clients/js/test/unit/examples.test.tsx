// @vitest-environment jsdom
// The examples do what they say, over a server that the test drives by hand; `tsc` has looked at them, too.
import { readdirSync, readFileSync } from "node:fs";
import { act, cleanup, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { pass } from "../support/clock.js";
import { FakeSocket, script, serve } from "../support/fake.js";

const settle = (ms = 0) => act(() => pass(ms));
const last = () => FakeSocket.last;

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  serve();
  vi.stubGlobal("WebSocket", FakeSocket);
});
afterEach(() => {
  cleanup();
  document.body.innerHTML = "";
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

test.each(readdirSync("examples"))("%s has at most 60 lines", (name) => {
  expect(readFileSync(`examples/${name}`, "utf8").split("\n").length).toBeLessThanOrEqual(61);
});

/** What the next request's answer is, a piece at a time. */
async function answering(pieces: string[], conversation: string) {
  await settle(20);
  const { request_id, input } = last().heard("request.create");
  const log = script(conversation, request_id);
  last().say(log.created(input as string), log.started());
  let at = 0;
  for (const piece of pieces) {
    last().say(log.delta(at, piece));
    at += piece.length;
  }
  await settle(20);
  return log;
}

test("plain: what is said and answered is shown", async () => {
  document.body.innerHTML = '<main id="app"></main>';
  await import("../../examples/plain.js");
  const field = document.querySelector("input") as HTMLInputElement;
  field.value = "Hi";
  document.querySelector("form")?.requestSubmit();
  expect(field.value).toBe("");
  await answering(["Hel", "lo"], "plain");
  expect([...document.querySelectorAll("li")].map((line) => line.textContent)).toEqual([
    "ann: Hi",
    "assistant: Hello (partial)",
  ]);
  (document.querySelector("[name=stop]") as HTMLButtonElement).click();
  await settle();
  expect(last().heard("request.cancel")).toBeTruthy();
});

test("react: what is said and answered is shown", async () => {
  const { App } = await import("../../examples/react.js");
  render(<App />);
  await settle(20);
  fireEvent.change(screen.getByRole("textbox"), { target: { value: "Hi" } });
  act(() => screen.getByText("Send").click());
  await answering(["Hello"], "react");
  expect(screen.getByText("assistant: Hello")).toBeTruthy();
});

test("voice: sentences are shown as they come, and what was said is told", async () => {
  document.body.innerHTML = '<p id="out"></p><input id="in">';
  await import("../../examples/voice.js");
  const field = document.querySelector("input") as HTMLInputElement;
  field.value = "Speak";
  field.dispatchEvent(new Event("change"));
  await answering(["One. ", "Two."], "voice");
  const { request_id } = last().heard("request.create");
  const segment = { type: "output_text.segment", conversation_id: "voice", request_id, part: 0 } as const;
  last().say({ ...segment, start: 0, end: 5, text: "One. ", last: false });
  await settle(200);
  expect(document.querySelector("#out")?.textContent).toBe("One. ");
  expect(last().heard("request.presented")).toMatchObject({ part: 0, offset: 5 });
  field.value = "Stop";
  field.dispatchEvent(new Event("change"));
  await settle();
  expect(last().heard("request.interrupt")).toMatchObject({ request_id, phase: "confirmed" });
});

test("together: what one writes is shared, and what the other writes is shown", async () => {
  document.body.innerHTML = '<textarea></textarea><p id="people"></p><input id="ask"><p id="advice"></p>';
  await import("../../examples/together.js");
  await settle(20);
  const area = document.querySelector("textarea") as HTMLTextAreaElement;
  area.value = "Mine";
  area.dispatchEvent(new Event("input"));
  await settle();
  expect(last().heard("context.set")).toMatchObject({ key: "text", version: 0, value: "Mine" });
  const changed = { type: "context.changed", conversation_id: "together", key: "text", ts: 1, by: "bob" } as const;
  last().say({ ...changed, seq: 1, version: 0, value: "Mine" }, { ...changed, seq: 2, version: 1, value: "Theirs" });
  expect(area.value).toBe("Theirs");
  const ask = document.querySelector("#ask") as HTMLInputElement;
  ask.value = "Good?";
  ask.dispatchEvent(new Event("change"));
  await settle(20);
  expect(last().heard("request.create")).toMatchObject({ input: "Good?" });
});
