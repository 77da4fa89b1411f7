// What a turn shows besides its messages, from its events.
import type { LogEvent } from "@turnwire/client";
import { expect, it } from "vitest";
import { type Note, noted } from "../../src/state/notes";

// biome-ignore lint/suspicious/noExplicitAny: events with the fields that count here
type Some = any;
const fold = (events: Some[], notes: ReadonlyMap<string, Note> = new Map()) =>
  events.reduce(
    (known: ReadonlyMap<string, Note>, event, index) =>
      noted(known, {
        conversation_id: "c",
        request_id: "r",
        seq: index + 1,
        ts: 1000 + index * 10,
        ...event,
      } as LogEvent),
    notes,
  );

const LIFE = [
  { type: "message.created" },
  { type: "request.queued", position: 1 },
  { type: "message.started", run: 1, route: "default" },
  { type: "step.started", step: 1, attempt: 1, deployment: "a", model: "m" },
  { type: "output_text.delta", part: 0, offset: 0, text: "x" },
  { type: "step.failed", step: 1, attempt: 1, deployment: "a", reason: "provider_cut", next: "b" },
  { type: "part.reset", part: 0, offset: 0 },
  { type: "step.started", step: 1, attempt: 2, deployment: "b", model: "n", run: 2 },
  { type: "usage.completed", output_tokens: 3 },
  {
    type: "message.interrupted",
    terminal: true,
    reason: "user",
    generated: 9,
    sent: 8,
    presented: 7,
    basis: "reported",
  },
];

it("times, attempts, usage and the ending of a turn", () => {
  const note = fold(LIFE).get("r");
  expect(note).toMatchObject({
    createdAt: 1000,
    queuedAt: 1010,
    startedAt: 1020,
    firstAt: 1040,
    route: "default",
    run: 2,
  });
  expect(note?.attempts).toEqual([
    {
      step: 1,
      attempt: 1,
      deployment: "a",
      model: "m",
      at: 1030,
      failed: { at: 1050, reason: "provider_cut", next: "b" },
    },
    { step: 1, attempt: 2, deployment: "b", model: "n", at: 1070, run: 2 },
  ]);
  expect(note?.resets).toBe(1);
  expect(note?.usage?.output_tokens).toBe(3);
  expect(note?.ending).toMatchObject({ type: "interrupted", at: 1090, generated: 9, presented: 7, basis: "reported" });
});

it("a call: progress, decision, outcome", () => {
  const call = { call_id: "k" };
  const events = [
    { type: "tool.started", ...call },
    { type: "tool.approved", ...call, by: "ann", arguments: {} },
    { type: "tool.running", ...call },
    { type: "tool.progress", ...call, fraction: 0.5, message: "half" },
    { type: "tool.completed", ...call, duration_ms: 40 },
  ];
  expect(fold(events).get("r")?.calls.k).toEqual({
    startedAt: 1000,
    decidedBy: "ann",
    decision: "edited",
    runningAt: 1020,
    fraction: 0.5,
    said: "half",
    durationMs: 40,
  });
});

it("events that come again change nothing, and those of no request neither", () => {
  const once = fold(LIFE);
  expect(fold(LIFE, once).get("r")).toBe(once.get("r"));
  const other = noted(once, {
    type: "context.changed",
    conversation_id: "c",
    seq: 99,
    ts: 1,
    key: "k",
    version: 0,
  } as LogEvent);
  expect(other).toBe(once);
});
