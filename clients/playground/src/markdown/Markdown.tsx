// What a model writes, as elements: marked reads it, React makes text nodes of it. No markup is ever taken from the
// text; HTML in it is shown as what it is. Blocks that have not changed are not drawn again.

import { lexer, type Token, type Tokens } from "marked";
import { Fragment, memo, type ReactNode, useMemo } from "react";
import { CodeBlock } from "./CodeBlock";
import { mend } from "./mend";

export function Markdown({ text, isWriting = false }: { text: string; isWriting?: boolean }) {
  const blocks = useMemo(() => lexer(isWriting ? mend(text) : text, { gfm: true, breaks: true }), [text, isWriting]);
  // The page has headings of two levels above these.
  const top = Math.min(...blocks.map((block) => (block.type === "heading" ? block.depth : 6)));
  return (
    <div className={isWriting ? "markdown writing" : "markdown"}>
      {blocks.map((block, index) =>
        // biome-ignore lint/suspicious/noArrayIndexKey: blocks only grow at the end
        block.type === "space" ? null : <Block key={index} raw={block.raw} block={block} top={top} />,
      )}
    </div>
  );
}

const Block = memo(
  ({ block, top }: { raw: string; block: Token; top: number }) => <>{drawn(block, top)}</>,
  (a, b) => a.raw === b.raw && a.block.type === b.block.type && (a.top === b.top || a.block.type !== "heading"),
);

const all = (tokens: Token[] | undefined): ReactNode =>
  // biome-ignore lint/suspicious/noArrayIndexKey: they have no other name
  tokens?.map((token, index) => <Fragment key={index}>{drawn(token)}</Fragment>);

/** Only addresses that lead to a page or a letter. */
const isSafe = (href: string) => /^(https?:|mailto:)/i.test(href);

function Link({ href, children }: { href: string; children: ReactNode }) {
  if (!isSafe(href)) return <>{children}</>;
  return (
    <a href={href} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  );
}

function drawn(token: Token, top = 1): ReactNode {
  switch (token.type) {
    case "heading": {
      const Heading = `h${Math.min(6, Math.max(0, (token as Tokens.Heading).depth - top) + 3)}` as "h3";
      return <Heading>{all(token.tokens)}</Heading>;
    }
    case "paragraph":
      return <p>{all(token.tokens)}</p>;
    case "text":
    case "escape":
      return token.type === "text" && token.tokens ? all(token.tokens) : unescaped((token as Tokens.Text).text);
    case "strong":
      return <strong>{all(token.tokens)}</strong>;
    case "em":
      return <em>{all(token.tokens)}</em>;
    case "del":
      return <del>{all(token.tokens)}</del>;
    case "codespan":
      return <code>{(token as Tokens.Codespan).text}</code>;
    case "br":
      return <br />;
    case "hr":
      return <hr />;
    case "link":
      return <Link href={(token as Tokens.Link).href}>{all(token.tokens)}</Link>;
    case "image": {
      const { href, text } = token as Tokens.Image;
      return <Link href={href}>{text || href}</Link>;
    }
    case "code": {
      const { text, lang } = token as Tokens.Code;
      return <CodeBlock text={text} language={lang?.split(/\s/)[0]} />;
    }
    case "blockquote":
      return <blockquote>{all(token.tokens)}</blockquote>;
    case "list":
      return <List list={token as Tokens.List} />;
    case "table":
      return <Table table={token as Tokens.Table} />;
    case "def":
    case "space":
      return null;
    default:
      return "raw" in token ? token.raw : null;
  }
}

function List({ list }: { list: Tokens.List }) {
  const items = list.items.map((item, index) => (
    // biome-ignore lint/suspicious/noArrayIndexKey: they have no other name
    <li key={index} className={item.task ? "task" : undefined}>
      {item.task && <input type="checkbox" checked={item.checked ?? false} disabled aria-label="task" />}
      {all(item.tokens.filter(({ type }) => type !== "checkbox"))}
    </li>
  ));
  return list.ordered ? <ol start={list.start || 1}>{items}</ol> : <ul>{items}</ul>;
}

function Table({ table }: { table: Tokens.Table }) {
  const cells = (row: Tokens.TableCell[], Cell: "th" | "td") =>
    row.map((cell, index) => (
      // biome-ignore lint/suspicious/noArrayIndexKey: columns have no other name
      <Cell key={index} scope={Cell === "th" ? "col" : undefined} className={cell.align ?? undefined}>
        {all(cell.tokens)}
      </Cell>
    ));
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls sideways, with the keyboard too
    <section className="table" tabIndex={0} aria-label="Table">
      <table>
        <thead>
          <tr>{cells(table.header, "th")}</tr>
        </thead>
        <tbody>
          {table.rows.map((row, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: rows have no other name
            <tr key={index}>{cells(row, "td")}</tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'" };
/** Markdown allows entities; these are those that models write. */
const unescaped = (text: string) => text.replace(/&(amp|lt|gt|quot|#39);/g, (whole, name) => ENTITIES[name] ?? whole);
