// A conversation as a tree of turns, from what the client shows.
import type { ConversationView, wire } from "@turnwire/client";
import { describe, expect, it } from "vitest";
import { Tree } from "../../src/state/branches";

let ordinal = 0;
const asked = (id: string, parent?: string): wire.Message => ({
  message_id: `${id}-q`,
  request_id: id,
  role: "user",
  parts: [{ kind: "text", text: id }],
  status: "complete",
  created_at: 0,
  parent_id: parent,
  ordinal: ordinal++,
});
const answered = (input: wire.Message, more: Partial<wire.Message> = {}): wire.Message => ({
  ...input,
  message_id: `${input.request_id}-a`,
  role: "assistant",
  parent_id: input.message_id,
  ...more,
});
const active = (input: wire.Message, more: Partial<wire.ActiveRequest> = {}): wire.ActiveRequest => ({
  request_id: input.request_id,
  conversation_id: "c",
  state: "streaming",
  run: 1,
  last_seq: 1,
  created_at: 0,
  input,
  answer_id: `${input.request_id}-a`,
  ...more,
});
const view = (messages: wire.Message[], live: wire.ActiveRequest[] = [], sending: wire.Message[] = []) =>
  ({
    messages,
    active: live,
    thread: [...messages, ...live.flatMap(({ input, message }) => (message ? [input, message] : [input])), ...sending],
  }) as unknown as ConversationView;

function tree(...views: ConversationView[]): Tree {
  const made = new Tree();
  for (const one of views) made.take(one);
  return made;
}
const ids = (turns: { id: string }[]) => turns.map(({ id }) => id);

describe("turns", () => {
  it("stand in their order, the live one with what it has so far", () => {
    const one = asked("one");
    const two = asked("two", "one-a");
    const shown = view([one, answered(one)], [active(two, { message: answered(two, { status: "partial" }) })]);
    const turns = tree(shown).turns(shown);
    expect(ids(turns)).toEqual(["one", "two"]);
    expect(turns.map(({ active: live, answer }) => [Boolean(live), answer?.status])).toEqual([
      [false, "complete"],
      [true, "partial"],
    ]);
  });

  it("that wait hang below answers that are not there yet", () => {
    const one = asked("one");
    const two = asked("two", "one-a");
    const shown = view([], [active(one), active(two, { state: "queued", position: 1 })]);
    expect(ids(tree(shown).turns(shown))).toEqual(["one", "two"]);
  });

  it("that are being sent come last, once", () => {
    const one = asked("one");
    const sending = { ...asked("two"), ordinal: undefined, status: "partial" as const };
    const shown = view([one, answered(one)], [], [sending]);
    expect(
      tree(shown)
        .turns(shown)
        .map(({ id, isSending }) => [id, isSending]),
    ).toEqual([
      ["one", false],
      ["two", true],
    ]);
  });

  it("that were folded into another stand in it, not beside it", () => {
    const one = asked("one");
    const two = asked("two", "one-a");
    const shown = view([
      one,
      answered(one, { steered: [{ part: 1, request_id: "two" }] }),
      two,
      answered(two, { parts: [] }),
    ]);
    const turns = tree(shown).turns(shown);
    expect(ids(turns)).toEqual(["one"]);
    expect(turns[0]?.folded).toEqual([{ part: 1, input: two }]);
  });
});

describe("branches", () => {
  const one = asked("one");
  const first = asked("first", "one-a");
  const after = asked("after", "first-a");
  const second = asked("second", "one-a");
  const older = view([one, answered(one), first, answered(first), after, answered(after)]);
  const newer = view([one, answered(one), second, answered(second)]);

  it("the newest is shown, the others are known by what was seen of them", () => {
    const turns = tree(older, newer).turns(newer);
    expect(ids(turns)).toEqual(["one", "second"]);
    expect(turns[1]?.siblings).toEqual([first, second]);
    expect(turns[0]?.siblings).toEqual([one]);
  });

  it("an older one is shown to its own end", () => {
    const seen = tree(older, newer);
    const leaf = seen.leafOf("first-q");
    expect(leaf).toBe("after-a");
    expect(ids(seen.turns(newer, leaf))).toEqual(["one", "first", "after"]);
  });

  it("first messages of a history that is cut off are no siblings of others", () => {
    const late = { ...asked("late"), ordinal: undefined };
    const shown = view([late]);
    expect(tree(shown).turns(shown)[0]?.siblings).toEqual([late]);
  });

  it("a partial answer that comes late does not replace the whole one", () => {
    const whole = view([one, answered(one)]);
    const late = view([], [active(one, { message: answered(one, { status: "partial" }) })]);
    expect(tree(whole, late).all()).toContainEqual(answered(one));
  });
});
