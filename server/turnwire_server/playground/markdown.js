// --- Markdown: text in, nodes out. Never through markup, so there is nothing to escape. ----------------------
const LIST = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const INLINE =
  /(`+)([^]*?[^`])\1(?!`)|\*\*(?=\S)([^]*?\S)\*\*|(?<!\w)__(?=\S)([^]*?\S)__(?!\w)|\*(?=\S)([^*\n]*?\S)\*|(?<!\w)_(?=\S)([^_\n]*?\S)_(?!\w)|~~(?=\S)([^]*?\S)~~|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>"')\]]*[^\s<>"')\].,;:!?])/;

function inline(text) {
  const out = document.createDocumentFragment();
  for (let match; (match = INLINE.exec(text));) {
    const [all, , code, strong1, strong2, em1, em2, gone, label, target, bare] = match;
    out.append(text.slice(0, match.index));
    if (code !== undefined) out.append(el("code", {}, code));
    else if (strong1 ?? strong2) out.append(el("strong", {}, inline(strong1 ?? strong2)));
    else if (em1 ?? em2) out.append(el("em", {}, inline(em1 ?? em2)));
    else if (gone) out.append(el("del", {}, inline(gone)));
    else out.append(el("a", { href: target ?? bare, target: "_blank", rel: "noopener noreferrer" }, label ?? bare));
    text = text.slice(match.index + all.length);
  }
  out.append(text);
  return out;
}

const kindOf = (line) =>
  /^\s*(```|~~~)/.test(line)
    ? "fence"
    : /^#{1,6}\s/.test(line)
      ? "heading"
      : /^\s*([-*_])(\s*\1){2,}\s*$/.test(line)
        ? "rule"
        : LIST.test(line)
          ? "list"
          : /^\s*>/.test(line)
            ? "quote"
            : /^\s*\|.*\|/.test(line)
              ? "table"
              : "text";

/** The blocks of a text as [kind, source]; a block that is complete never changes when more text comes. */
function blocksOf(text) {
  const blocks = [];
  let block = null,
    fence = null;
  for (const line of text.split("\n")) {
    const kind = kindOf(line);
    if (fence) {
      block[1] += `\n${line}`;
      if (line.trim().startsWith(fence) && !line.trim().slice(fence.length)) fence = block = null;
    } else if (!line.trim()) block = block?.[0] === "list" ? block : null;
    else if (
      block &&
      (kind === block[0] || (kind === "text" && (block[0] === "quote" || (block[0] === "list" && /^\s/.test(line))))) &&
      kind !== "heading" &&
      kind !== "rule"
    )
      block[1] += `\n${line}`;
    else {
      blocks.push((block = [kind, line]));
      if (kind === "fence") fence = line.trim().slice(0, 3);
      if (kind === "heading" || kind === "rule") block = null;
    }
  }
  return blocks;
}

function listNode(lines) {
  const [, indent, mark] = LIST.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const items = [];
  for (const line of lines) {
    const match = LIST.exec(line);
    if (match && match[1].length <= indent.length) items.push({ text: match[3], below: [] });
    else if (match || items.at(-1).below.length) items.at(-1).below.push(line);
    else items.at(-1).text += `\n${line.trim()}`;
  }
  const list = el(
    ordered ? "ol" : "ul",
    {},
    ...items.map(({ text, below }) => el("li", {}, inline(text), below.length ? listNode(below) : null)),
  );
  if (ordered) list.start = parseInt(mark, 10);
  return list;
}

function tableNode(lines) {
  const cells = (line) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split("|")
      .map((cell) => cell.trim());
  const isRuled = lines.length > 1 && /^[\s|:-]+$/.test(lines[1]);
  const rows = isRuled ? [lines[0], ...lines.slice(2)] : lines;
  return el(
    "table",
    {},
    ...rows.map((line, index) =>
      el("tr", {}, ...cells(line).map((cell) => el(isRuled && index === 0 ? "th" : "td", {}, inline(cell)))),
    ),
  );
}

function blockNode([kind, source]) {
  const lines = source.split("\n");
  if (kind === "heading") {
    const [, marks, text] = /^(#+)\s+(.*)$/.exec(source) ?? [null, "###", ""];
    return el(`h${Math.min(6, marks.length + 2)}`, {}, inline(text));
  }
  if (kind === "rule") return el("hr");
  if (kind === "list") return listNode(lines);
  if (kind === "table") return tableNode(lines);
  if (kind === "quote")
    return el(
      "blockquote",
      {},
      ...blocksOf(lines.map((line) => line.replace(/^\s*>\s?/, "")).join("\n")).map(blockNode),
    );
  if (kind === "fence") {
    const closed = lines.length > 1 && lines.at(-1).trim() === lines[0].trim().slice(0, 3);
    const code = lines.slice(1, closed ? -1 : undefined).join("\n");
    return el(
      "div",
      { className: "code" },
      el(
        "header",
        {},
        lines[0].trim().slice(3) || "text",
        copyButton(() => code),
      ),
      el("pre", {}, el("code", {}, code)),
    );
  }
  return el("p", {}, inline(source));
}

/** Bring `node` up to `text`; blocks that have not changed stay as they are, selections in them too. */
function renderMarkdown(node, text) {
  if (node.source === text) return;
  node.source = text;
  const blocks = blocksOf(text);
  blocks.forEach((block, index) => {
    const source = block.join("\n"),
      old = node.children[index];
    if (old?.source === source) return;
    const fresh = blockNode(block);
    fresh.source = source;
    if (old) old.replaceWith(fresh);
    else node.append(fresh);
  });
  while (node.children.length > blocks.length) node.lastChild.remove();
}

function copyButton(text) {
  const node = button(
    "",
    "Copy",
    async () => {
      await navigator.clipboard?.writeText(text());
      node.replaceChildren(icon("check"));
      setTimeout(() => node.replaceChildren(icon("copy")), 1200);
    },
    icon("copy"),
  );
  return node;
}
