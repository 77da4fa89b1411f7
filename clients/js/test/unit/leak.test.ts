// 1,000 turns and 200 reconnects leave nothing behind: no memory, no listener, no timer.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test, vi } from "vitest";
import { connect } from "../../src/index.js";
import type { ServerMessage } from "../../src/protocol.js";
import { FakeSocket, opened, script, welcome } from "../support/fake.js";

setFlagsFromString("--expose-gc");
const gc: () => void = runInNewContext("gc");

/** Bytes in use once all that can go has gone. */
async function heap(): Promise<number> {
  for (let n = 0; n < 4; n++) {
    await new Promise(setImmediate);
    gc();
  }
  return process.memoryUsage().heapUsed;
}

/** A page's events: who listens. */
class Page {
  readonly listening = new Set<string>();
  addEventListener = (type: string, _listener: unknown, options?: { signal?: AbortSignal }) => {
    this.listening.add(type);
    options?.signal?.addEventListener("abort", () => this.listening.delete(type));
  };
  removeEventListener = (type: string) => this.listening.delete(type);
}

test("1,000 turns and 200 reconnects leave heap and listeners flat", async () => {
  const page = new Page();
  vi.stubGlobal("addEventListener", page.addEventListener);
  vi.stubGlobal("removeEventListener", page.removeEventListener);
  const seqs = new Map<string, number>();
  FakeSocket.reset();
  // Answers each turn in one go, and keeps no socket.
  FakeSocket.born = (socket) => {
    FakeSocket.all = [socket];
    queueMicrotask(() => socket.open());
    socket.hears = (command) => {
      socket.sent.length = 0;
      const ref = command.id as string;
      const answers: ServerMessage[] = [];
      if (command.type === "hello") answers.push(welcome(), ...(command.resume ?? []).flatMap(resumed));
      else if (command.type === "conversation.open")
        answers.push(...opened(ref, command.conversation_id, "e1", seqs.get(command.conversation_id) ?? 0));
      else if (command.type === "request.create") {
        const { conversation_id: where, request_id } = command;
        const log = script(where, request_id, seqs.get(where) ?? 0);
        answers.push(
          { type: "ack", ref, duplicate: false },
          log.created(),
          log.started(),
          log.delta(0, "Hello"),
          log.completed("Hello"),
        );
        seqs.set(where, (seqs.get(where) ?? 0) + 4);
      } else answers.push({ type: "ack", ref });
      queueMicrotask(() => socket.say(...answers));
    };
  };
  const resumed = ({ conversation_id: id }: { conversation_id?: string | null }, index: number): ServerMessage[] => {
    const [verdict] = opened(`resume.${index}`, id as string, "e1", seqs.get(id as string)) as [
      Extract<ServerMessage, { type: "conversation.opened" }>,
    ];
    return [{ ...verdict, verdict: "live" }];
  };

  const abort = new AbortController();
  const added = vi.spyOn(abort.signal, "addEventListener");
  const removed = vi.spyOn(abort.signal, "removeEventListener");

  const client = connect("ws://fake/v1", { WebSocket: FakeSocket, storage: false });
  let number = 0;
  async function turns(count: number): Promise<void> {
    const conversation = client.conversation(`c${number % 7}`);
    const stop = conversation.subscribe(() => {});
    for (let n = 0; n < count; n++) {
      number += 1;
      const turn = conversation.send("Hi", { signal: abort.signal });
      for await (const event of turn) void event;
      if (turn.text !== "Hello") throw new Error(turn.text); // `expect` keeps something of each call
    }
    stop();
    conversation.leave();
  }
  async function reconnect(): Promise<void> {
    const open = new Promise<void>((resolve) => {
      const stop = client.on("status", ({ state }) => {
        if (state === "waiting") client.connect();
        if (state !== "open") return;
        stop();
        resolve();
      });
    });
    FakeSocket.last.end();
    await open;
  }

  for (let n = 0; n < 10; n++) await turns(10); // what is made once
  await reconnect();
  const before = await heap();
  added.mockClear();
  removed.mockClear();
  for (let n = 0; n < 200; n++) {
    await turns(5);
    await reconnect();
  }
  const listened = [added.mock.calls.length, removed.mock.calls.length];
  added.mockClear();
  removed.mockClear();
  const grown = (await heap()) - before;
  expect(number).toBe(1100);
  expect(listened).toEqual([1000, 1000]);
  expect([...page.listening].sort()).toEqual(["offline", "online", "pagehide", "pageshow", "visibilitychange"]);
  expect(grown).toBeLessThan(500_000); // one turn kept is more than a kilobyte
  client.close();
  expect(page.listening.size).toBe(0);
  vi.unstubAllGlobals();
}, 60_000);
