// Turns against the real server: from the first word to the last, stopped, steered, lost and found again.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TurnwireError } from "../../src/index.js";
import { echo, gate, hold } from "../support/provider.js";
import { type Stand, startStand } from "../support/server.js";
import { until, untilState } from "../support/wait.js";

let stand: Stand;
beforeAll(async () => {
  stand = await startStand();
});
afterAll(() => stand.stop());

let count = 0;
const fresh = (client = stand.client()) => client.conversation(`turns-${count++}`);

describe("a turn", () => {
  test("streams to its end", async () => {
    const turn = fresh().send("Hello there");
    expect(turn.id).toMatch(/^[0-9a-f-]{36}$/);
    expect(turn.state).toBe("sending");
    let text = "";
    const types: string[] = [];
    for await (const event of turn) {
      types.push(event.type);
      if (event.type === "output_text.delta") text += event.text;
    }
    expect(text).toBe("You said: Hello there");
    expect(types[0]).toBe("message.created");
    expect(types.at(-1)).toBe("message.completed");
    expect(turn.state).toBe("completed");
    expect(turn.text).toBe(text);
    expect(turn.conversation.view.thread.map(({ role }) => role)).toEqual(["user", "assistant"]);
  });

  test("is there to be looked at without being read", async () => {
    const result = await fresh().send("Quietly").result();
    expect(result).toMatchObject({ state: "completed", text: "You said: Quietly" });
  });

  test("is cancelled by its signal, at the provider too", async () => {
    const held = hold(stand.provider, "One", " two");
    const before = stand.provider.gone;
    const abort = new AbortController();
    const turn = fresh().send("Count", { signal: abort.signal });
    await until(turn.conversation, () => turn.text === "One");
    abort.abort();
    const { state, text } = await turn.result();
    expect([state, text]).toEqual(["cancelled", "One"]);
    await stand.provider.until(() => stand.provider.gone > before);
    held.open();
  });

  test("goes on when its reader leaves the loop", async () => {
    const held = hold(stand.provider, "One", " two");
    const turn = fresh().send("Count");
    for await (const event of turn) if (event.type === "output_text.delta") break;
    held.open();
    expect((await turn.result()).text).toBe("One two");
  });

  test("begins for a late reader with all there is so far", async () => {
    const held = hold(stand.provider, "One", " two");
    const turn = fresh().send("Count");
    await until(turn.conversation, () => turn.text === "One");
    const events = [];
    for await (const event of turn) {
      events.push(event);
      held.open();
    }
    expect(events[0]).toMatchObject({ type: "turn.reset", text: "One", state: "streaming" });
    expect(events.map((event) => ("text" in event ? event.text : "")).join("")).toBe("One two");
  });

  test("is steered", async () => {
    const held = hold(stand.provider, "First", ", more of the first");
    const conversation = fresh();
    const first = conversation.send("Begin");
    await until(conversation, () => first.text === "First");
    stand.provider.scripts.push(async function* () {
      yield "Steered";
    });
    const second = conversation.send("Shorter", { onBusy: "steer" });
    expect((await second.result()).state).toBe("merged");
    expect((await first.result()).text).toContain("Steered");
    held.open();
  });

  test("is interrupted and keeps what was presented", async () => {
    const held = hold(stand.provider, "Heard. Not heard.", "Never");
    const turn = fresh().send("Speak");
    await until(turn.conversation, () => turn.text.length > 8);
    expect(await turn.interrupt({ presented: 6 })).toBe("interrupting");
    const { state, text } = await turn.result();
    expect([state, text]).toEqual(["interrupted", "Heard."]);
    held.open();
  });

  test("tells how far it was presented", async () => {
    const turn = fresh().send("Some words");
    await turn.result();
    const other = fresh();
    const held = hold(stand.provider, "Heard. Not heard.", "Never");
    const spoken = other.send("Speak");
    await until(other, () => spoken.text.length > 8);
    const told = new Promise<void>((resolve) => {
      other.client.on("traffic", ({ direction, message }) => {
        if (direction === "out" && message.type === "request.presented") resolve();
      });
    });
    spoken.presented(3);
    spoken.presented(6);
    await told;
    await spoken.interrupt();
    expect((await spoken.result()).text).toBe("Heard.");
    held.open();
  });

  test("that is refused is handed back with the reason", async () => {
    const held = hold(stand.provider, "One");
    const conversation = fresh();
    const running = conversation.send("First");
    await until(conversation, () => running.text === "One");
    const refused = conversation.send("Second", { onBusy: "reject" });
    await expect(refused.result()).rejects.toMatchObject({ code: "busy" });
    expect(refused.state).toBe("unsent");
    await expect(async () => {
      for await (const _ of refused);
    }).rejects.toThrow(TurnwireError);
    held.open();
    await running.result();
  });

  test("is answered anew on a branch of its own", async () => {
    const conversation = fresh();
    await conversation.open();
    const first = await conversation.send("Which?").result();
    stand.provider.scripts.push(async function* () {
      yield "Another";
    });
    const second = conversation.regenerate(first.message?.message_id as string);
    expect((await second.result()).text).toBe("Another");
    await until(conversation, () => conversation.view.messages.length === 2);
    expect(conversation.view.messages.at(-1)?.parts).toEqual([{ kind: "text", text: "Another" }]);
  });
});

describe("a connection that is cut", () => {
  test("in mid-answer costs no letter", async () => {
    const [held, further] = [gate(), gate()];
    stand.provider.scripts.push(async function* () {
      yield "One";
      await held.pass();
      yield " two";
      await further.pass();
      yield " three";
    });
    const turn = fresh().send("Count");
    const { client } = turn.conversation;
    await until(turn.conversation, () => turn.text === "One");
    stand.cutter.cut();
    await untilState(client, "waiting", "connecting");
    held.open();
    await until(turn.conversation, () => turn.text === "One two");
    stand.cutter.cut();
    further.open();
    expect((await turn.result()).text).toBe("One two three");
  });

  test("at any byte is resumed", async () => {
    const whole = (await fresh().send("a b c d e f g h").result()).text;
    for (let bytes = 150; bytes < 1800; bytes += 150) {
      stand.cutter.budgets.push(bytes, bytes + 400);
      const client = stand.client();
      client.on("status", ({ state }) => state === "waiting" && client.connect()); // the wait itself is not the subject
      const turn = fresh(client).send("a b c d e f g h");
      let text = "";
      for await (const event of turn)
        if (event.type === "output_text.delta") text += event.text;
        else if (event.type === "turn.reset") text = event.text;
      expect(text).toBe(whole);
      client.close();
    }
  });

  test("before it was ever made: turns wait and are sent", async () => {
    stand.cutter.down();
    const turn = fresh().send("Waiting");
    await untilState(turn.conversation.client, "waiting");
    stand.cutter.up();
    turn.conversation.client.connect();
    expect((await turn.result()).text).toBe("You said: Waiting");
  });

  test("a turn that was cancelled before it could be sent never is", async () => {
    stand.cutter.down();
    const asked = stand.provider.asked.length;
    const turn = fresh().send("Never");
    await untilState(turn.conversation.client, "waiting");
    expect(await turn.cancel()).toBe("cancelling");
    expect(turn.state).toBe("cancelled");
    stand.cutter.up();
    turn.conversation.client.connect();
    await untilState(turn.conversation.client, "open");
    expect(stand.provider.asked.length).toBe(asked);
  });

  test("too long ago: the turn is handed back", async () => {
    stand.cutter.down();
    const client = stand.client({ maxAgeMs: 0 });
    const turn = client.conversation("stale").send("Old");
    await untilState(client, "waiting");
    const returned = new Promise((resolve) => client.on("returned", resolve));
    await new Promise((resolve) => setTimeout(resolve, 2)); // so that it is older than nothing
    stand.cutter.up();
    client.connect();
    expect(await returned).toBe(turn);
    expect(turn).toMatchObject({ state: "unsent", input: "Old", error: { code: "stale" } });
  });
});

describe("another client", () => {
  test("takes a running turn up by its id", async () => {
    const held = hold(stand.provider, "One", " two");
    const turn = fresh().send("Count");
    await until(turn.conversation, () => turn.text === "One");
    const again = stand.client().conversation(turn.conversation.id).turn(turn.id);
    const events = [];
    for await (const event of again) {
      events.push(event.type);
      held.open();
    }
    expect(events[0]).toBe("turn.reset");
    expect(again.text).toBe("One two");
  });

  test("finds a finished turn by its id", async () => {
    const turn = fresh().send("Long ago");
    await turn.result();
    const again = stand.client().conversation(turn.conversation.id).turn(turn.id);
    expect(await again.result()).toMatchObject({ state: "completed", text: "You said: Long ago" });
  });

  test("does not find what never was", async () => {
    const turn = fresh(stand.client()).turn("never-was");
    await expect(turn.result()).rejects.toMatchObject({ code: "not_found" });
  });

  test("sees what the first one says", async () => {
    const conversation = fresh();
    await conversation.open();
    const other = stand.client().conversation(conversation.id);
    await other.open();
    await conversation.send("Both").result();
    await until(other, () => other.view.messages.length === 2);
    expect(other.view.thread).toEqual(conversation.view.thread);
  });
});

test("the server's echo is what these tests think it is", async () => {
  let said = "";
  for await (const piece of echo({ messages: [{ content: "x" }] })) said += piece;
  expect(said).toBe("You said: x");
});
