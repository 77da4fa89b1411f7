// Text that is still being written, as it is shown meanwhile.
import { describe, expect, it } from "vitest";
import { mend } from "../../src/markdown/mend";

const CASES: [name: string, given: string, shown: string][] = [
  ["nothing", "", ""],
  ["plain text", "a plain text", "a plain text"],
  ["open bold", "a **bold wo", "a **bold wo**"],
  ["open bold in open emphasis", "*a **b", "*a **b***"],
  ["closed emphasis", "*a* and **b** done", "*a* and **b** done"],
  ["a mark that has nothing in it yet", "a **", "a "],
  ["a mark with a space behind it is none", "2 * 3", "2 * 3"],
  ["underscores within words", "snake_case_name", "snake_case_name"],
  ["an open underscore", "an _open wo", "an _open wo_"],
  ["open code", "run `make te", "run `make te`"],
  ["a tick that has nothing in it yet", "run `", "run "],
  ["emphasis marks in code", "`a ** b` c", "`a ** b` c"],
  ["open strike", "~~gone", "~~gone~~"],
  ["half a link", "see [the doc", "see the doc"],
  ["a link whose address is being written", "see [the docs](https://exa", "see the docs"],
  ["a whole link", "see [the docs](https://example.org)", "see [the docs](https://example.org)"],
  ["half an image", "![a pic", "a pic"],
  ["an open fence stands as it is", "```py\nx = **1", "```py\nx = **1"],
  ["behind a closed fence", "```\nx\n```\n**b", "```\nx\n```\n**b**"],
  ["blocks before the last stand", "a ** b\n\n**c", "a ** b\n\n**c**"],
  ["the head of a table", "| a | b", "| a | b |\n|---|---|"],
  ["the rule of a table being written", "| a | b |\n|--", "| a | b |\n|---|---|"],
  ["a table with rows stands", "| a |\n|---|\n| 1", "| a |\n|---|\n| 1"],
  ["an escaped mark", "a \\*b", "a \\*b"],
];

describe("mend", () => {
  it.each(CASES)("%s", (_, given, shown) => {
    expect(mend(given)).toBe(shown);
  });

  it("leaves whole documents alone, however they are cut into blocks", () => {
    const whole = "# T\n\n- a\n- *b*\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nlet a = `x`;\n```\n\nThe `end`.";
    expect(mend(whole)).toBe(whole);
  });
});
