// Whatever the network and the server do: what is rendered in the end is what an undisturbed run renders. fast-check
// makes up logs of turns (text in pieces, resets, tools) and what goes wrong on the way: cuts, frames that come twice,
// snapshots at any moment, restarts with and without a new epoch, merged deltas. A reader that follows the rules of
// `turn.reset` and `part.reset` must end with the same text too.
import fc from "fast-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Fold } from "../../src/fold.js";
import { type Client, connect } from "../../src/index.js";
import type { ServerMessage } from "../../src/protocol.js";
import { take } from "../../src/take.js";
import type { LogEvent, TurnEvent } from "../../src/types.js";
import { pass } from "../support/clock.js";
import { FakeSocket, opened, script, serve, welcome } from "../support/fake.js";

type Piece = { kind: "text"; words: string } | { kind: "reset"; keep: number } | { kind: "tool" };
type Trouble = "none" | "cut" | "twice" | "snapshot" | "restart" | "new epoch" | "merge" | "again";

const pieces = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("text" as const),
        words: fc.string({ minLength: 1, maxLength: 6, unit: "grapheme" }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("reset" as const), keep: fc.nat(6) }) },
    { weight: 1, arbitrary: fc.constant({ kind: "tool" as const }) },
  ),
  { maxLength: 14 },
);
const troubles = fc.array(
  fc.constantFrom<Trouble>("none", "cut", "twice", "snapshot", "restart", "new epoch", "merge", "again"),
  { maxLength: 24 },
);

/** The log of one turn, and its text at the end. */
function logOf(story: Piece[]): { log: LogEvent[]; text: string } {
  const make = script("c1", "r1");
  const log: ServerMessage[] = [make.created(), make.started()];
  const parts: (string | undefined)[] = [];
  for (const piece of story) {
    const last = parts.length - 1;
    if (piece.kind === "text") {
      const part = parts[last] === undefined ? last + 1 : last;
      log.push(make.delta(parts[part]?.length ?? 0, piece.words, part));
      parts[part] = (parts[part] ?? "") + piece.words;
    } else if (piece.kind === "reset" && parts[last] !== undefined) {
      // Never within a surrogate pair.
      const offset = [...(parts[last] as string)].slice(0, piece.keep).join("").length;
      log.push(make.event("part.reset", { part: last, offset }));
      if (offset) parts[last] = (parts[last] as string).slice(0, offset);
      else parts.pop();
    } else if (piece.kind === "tool") {
      const call_id = `k${log.length}`;
      const about = { name: "t", where: "server", interruptible: false, side_effect: false };
      log.push(make.event("tool.started", { call_id, part: parts.length, ...about }));
      log.push(make.event("tool.called", { call_id, where: "server", arguments: {} }));
      log.push(make.event("tool.completed", { call_id, output: 1, duration_ms: 1 }));
      parts.push(undefined);
    }
  }
  const text = parts.join("");
  const whole = parts.map((one) => ({ kind: "text", text: one ?? "" }));
  const message = { ...(make.completed(text) as Extract<ServerMessage, { type: "message.completed" }>) };
  message.message = { ...message.message, parts: whole } as typeof message.message;
  log.push(message);
  return { log: log as LogEvent[], text };
}

/** The server's side: the log, and what a snapshot of it at `seq` is. */
class Server {
  epoch = "e1";
  shown = 0;

  constructor(readonly log: LogEvent[]) {}

  snapshot(): ServerMessage {
    const fold = new Fold();
    take(fold, this.log.slice(0, this.shown));
    const { messages, active } = fold.view();
    return {
      type: "conversation.snapshot",
      conversation_id: "c1",
      epoch: this.epoch,
      seq: this.shown,
      messages,
      active,
    };
  }

  /** What is behind the cursor, as one frame; neighbouring deltas of one part made one. */
  merged(from: number): LogEvent[] {
    const frame: LogEvent[] = [];
    for (const event of this.log.slice(from, this.shown)) {
      const last = frame.at(-1);
      if (event.type === "output_text.delta" && last?.type === "output_text.delta" && last.part === event.part)
        frame[frame.length - 1] = {
          ...last,
          seq: event.seq,
          from_seq: last.from_seq ?? last.seq,
          text: last.text + event.text,
        };
      else frame.push(event);
    }
    return frame;
  }

  answer(ref: string, since?: { epoch: string; seq: number } | null): ServerMessage[] {
    const [verdict] = opened(ref, "c1", this.epoch, this.shown) as [
      Extract<ServerMessage, { type: "conversation.opened" }>,
    ];
    if (since?.epoch !== this.epoch || since.seq > this.shown) return [verdict, this.snapshot()];
    return [{ ...verdict, verdict: "replayed" }, ...this.merged(since.seq)];
  }
}

/** What somebody renders who reads events and keeps the rules. */
async function render(events: AsyncIterable<TurnEvent>): Promise<string> {
  let parts: string[] = [];
  for await (const event of events) {
    if (event.type === "turn.reset") parts = event.parts.map((part) => (part.kind === "text" ? part.text : ""));
    else if (event.type === "output_text.delta")
      parts[event.part] = (parts[event.part] ?? "").slice(0, event.offset) + event.text;
    else if (event.type === "part.reset")
      parts = [...parts.slice(0, event.part), (parts[event.part] ?? "").slice(0, event.offset)];
    else if (event.type === "tool.started") parts[event.part] = "";
  }
  return parts.join("");
}

let client: Client;
beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  client.close();
  vi.useRealTimers();
});

async function run(story: Piece[], disturbed: Trouble[]): Promise<void> {
  const { log, text } = logOf(story);
  const server = new Server(log);
  FakeSocket.reset();
  serve((command) => {
    if (command.type === "hello")
      return [
        welcome(),
        ...(command.resume ?? []).flatMap(({ since }, index) => server.answer(`resume.${index}`, since)),
      ];
    if (command.type === "conversation.open") return server.answer(command.id as string, command.since);
    if (command.type === "conversation.history") {
      const items =
        server.shown === log.length ? [(log.at(-1) as Extract<LogEvent, { type: "message.completed" }>).message] : [];
      return { type: "conversation.messages", ref: command.id as string, items } as ServerMessage;
    }
    if (command.type === "request.status") {
      const state = server.shown === log.length ? "completed" : "streaming";
      const about = {
        conversation_id: "c1",
        run: 1,
        last_seq: server.shown,
        created_at: 0,
        request_id: "r1",
        message_id: "a-r1",
      };
      return { type: "request.state", ref: command.id as string, state, ...about } as ServerMessage;
    }
    return null;
  });
  client = connect("ws://fake/v1", { WebSocket: FakeSocket, storage: false });
  const turn = client.conversation("c1").send("Hi", { id: "r1" });
  client.conversation("c1").subscribe(() => {});
  const rendered = render(turn);
  await pass();
  for (let at = 0; at < log.length; at++) {
    const trouble = disturbed[at % (disturbed.length || 1)] ?? "none";
    const before = server.shown;
    server.shown = at + 1;
    const socket = FakeSocket.last;
    const say = (...frame: ServerMessage[]) => socket.readyState === 1 && frame.length && socket.say(...frame);
    if (trouble === "cut") socket.end();
    else if (trouble === "twice") {
      say(log[at] as LogEvent);
      say(log[at] as LogEvent);
    } else if (trouble === "again") say(...log.slice(Math.max(0, at - 3), at + 1));
    else if (trouble === "snapshot") say(server.snapshot());
    else if (trouble === "restart") {
      say(log[at] as LogEvent);
      socket.end(4000, "going away");
    } else if (trouble === "new epoch") {
      server.epoch += "'";
      socket.end();
    } else if (trouble === "merge" && at + 1 < log.length) {
      server.shown = at + 2;
      say(...server.merged(before));
      at += 1;
    } else say(log[at] as LogEvent);
    // Sometimes it is back before the next event, sometimes much later.
    if (at % 2) await vi.advanceTimersByTimeAsync(30_000);
  }
  await vi.advanceTimersByTimeAsync(60_000);
  expect(turn.view).toMatchObject({ state: "completed", text });
  expect(client.conversation("c1").view.thread.at(-1)).toMatchObject({ role: "assistant", status: "complete" });
  client.close();
  const read = await rendered;
  // The last event carries the whole message; until then a reader has built it by itself.
  expect(read).toBe(text);
}

test("any schedule of troubles renders what an undisturbed run renders", async () => {
  await fc.assert(
    fc.asyncProperty(pieces, troubles, async (story, disturbed) => run(story, disturbed)),
    { numRuns: 300 },
  );
}, 60_000);
