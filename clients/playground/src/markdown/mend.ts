// Text that is still being written ends anywhere: in the middle of a word in bold, of a link, of a table's head. This
// ends it so that what is there already looks as it will look, and nothing jumps when the rest comes. Only the last
// block is open; those before it stand. An open fence needs no help: it is code to the end.

const FENCE = /^ {0,3}(`{3,}|~{3,})/;

export function mend(text: string): string {
  const lines = text.split("\n");
  let fence: string | undefined;
  let begin = 0;
  for (const [at, line] of lines.entries()) {
    const mark = FENCE.exec(line)?.[1];
    if (fence) {
      if (mark?.startsWith(fence) && line.trim() === mark) {
        fence = undefined;
        begin = at + 1;
      }
    } else if (mark) fence = mark;
    else if (!line.trim()) begin = at + 1;
  }
  // A fence whose ticks have just begun, or whose language is being written, has nothing to show yet.
  if (fence || begin >= lines.length) return text;
  const open = lines.slice(begin);
  const before = lines.slice(0, begin).join("\n") + (begin ? "\n" : "");
  return before + (mendTable(open) ?? mendInline(open.join("\n")));
}

/** The head of a table is one only with the line under it. */
function mendTable(lines: string[]): string | undefined {
  const [head = "", rule] = lines;
  if (!/^\s*\|.*\S/.test(head) || lines.length > 2) return undefined;
  if (rule !== undefined && !/^[\s|:-]*$/.test(rule)) return undefined;
  const whole = head.trimEnd().endsWith("|") ? head : `${head} |`;
  const cells = whole.trim().slice(1, -1).split("|").length;
  return `${whole}\n|${"---|".repeat(cells)}`;
}

function mendInline(text: string): string {
  // Half an image, link or address: its words as they are so far.
  let mended = text.replace(/!?\[([^\][]*)\]\([^()\s]*$/, "$1").replace(/!?\[([^\][]*)$/, "$1");
  const ticks = /(`+)(?:(?!\1)[\s\S])*$/.exec(
    mended.replace(/(`+)[^`]+?\1(?!`)/g, (whole) => "x".repeat(whole.length)),
  );
  if (ticks)
    return mended.length > ticks.index + (ticks[1]?.length ?? 0) ? mended + ticks[1] : mended.slice(0, ticks.index);
  // A mark at the very end has nothing in it yet.
  mended = mended.replace(/(?<=^|[\s(])(\*{1,3}|_{1,3}|~~)$/, "");
  for (const mark of openMarks(mended)) mended = mended.trimEnd() + mark;
  return mended;
}

/** Marks of emphasis that were opened and not closed, the innermost first. */
function openMarks(text: string): string[] {
  const open: string[] = [];
  const plain = text.replace(/(`+)[^`]+?\1(?!`)/g, (whole) => "x".repeat(whole.length)).replace(/\\./g, "xx");
  for (const { 0: mark, index } of plain.matchAll(/\*{1,3}|(?<!\w)_{1,3}|_{1,3}(?!\w)|~~/g)) {
    const before = plain[index - 1] ?? " ";
    const after = plain[index + mark.length] ?? " ";
    if (open.at(-1) === mark && !/\s/.test(before)) open.pop();
    else if (!/\s/.test(after)) open.push(mark);
  }
  return open.reverse();
}
