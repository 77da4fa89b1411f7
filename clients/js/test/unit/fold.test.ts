// The vectors of the protocol, with the rules of `protocol/vectors/README.md`.
import { describe, expect, test } from "vitest";
import { Fold } from "../../src/fold.js";
import type { Misfit } from "../../src/live.js";
import { take } from "../../src/take.js";
import { vectors } from "../support/vectors.js";

// biome-ignore lint/suspicious/noExplicitAny: a vector is any JSON
type Case = any;
const { epoch, cases } = vectors("fold");
// Messages outside the log may stand in a frame; whoever reads frames gives the fold what belongs to it.
const belongs = (message: { type: string; seq?: number; ts?: number }) =>
  message.type === "conversation.snapshot" || message.ts !== undefined;

describe("vectors/fold.json", () => {
  test.each(cases as Case[])("$name", (one) => {
    const fold = new Fold();
    if (one.snapshot) fold.replace(one.snapshot);
    else fold.epoch = epoch;
    let error: string | undefined;
    try {
      for (const frame of one.frames) take(fold, frame.filter(belongs));
    } catch (thrown) {
      error = (thrown as Misfit).message;
    }
    expect(error).toBe(one.error);
    const { before, ...view } = fold.view();
    if (!one.error) expect(JSON.parse(JSON.stringify(view))).toEqual(one.view);
  });
});
