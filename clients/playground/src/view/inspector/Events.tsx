// Every message on the wire, newest last. It can be held, searched and copied.

import { memo, useEffect, useLayoutEffect, useRef, useState } from "react";
import { useValue } from "../../state/store";
import type { Passing } from "../../state/traffic";
import { IconButton } from "../Button";
import { CopyButton } from "../CopyButton";
import { useSession } from "../context";
import { count, exactly, seconds } from "../format";

const MOST_ROWS = 300;
const NEAR = 40;

// biome-ignore lint/suspicious/noExplicitAny: fields of any message
const fields = (message: Passing["message"]): any => message;

function gist(message: Passing["message"]): string {
  const {
    text,
    name,
    verdict,
    outcome,
    code,
    reason,
    model,
    finish_reason,
    state,
    title,
    said = text ?? name ?? verdict ?? outcome ?? code ?? reason ?? model ?? finish_reason ?? title,
  } = fields(message);
  const shown = said ?? (typeof state === "string" ? state : "");
  return typeof shown === "string" ? shown.trimStart().slice(0, 60).replaceAll("\n", "⏎") : "";
}

function toneOf({ direction, message }: Passing): string {
  const { type } = message;
  if (direction === "out") return "out";
  if (type === "error" || type.endsWith(".failed")) return "bad";
  if (fields(message).terminal) return "end";
  return type.endsWith(".delta") ? "delta" : "";
}

const fits = ({ message }: Passing, wanted: string, withDeltas: boolean) =>
  (withDeltas || !message.type.endsWith(".delta")) &&
  (!wanted || `${message.type} ${fields(message).request_id ?? ""} ${gist(message)}`.toLowerCase().includes(wanted));

export function Events() {
  const session = useSession();
  const live = useValue(session.traffic);
  const [held, setHeld] = useState<readonly Passing[]>();
  const [wanted, setWanted] = useState("");
  const [withDeltas, setDeltas] = useState(true);
  const [open, setOpen] = useState<number>();
  const list = useRef<HTMLOListElement>(null);
  const sticks = useRef(true);
  const entries = (held ?? live.entries).filter((entry) => fits(entry, wanted.trim().toLowerCase(), withDeltas));
  const shown = entries.slice(-MOST_ROWS);

  // biome-ignore lint/correctness/useExhaustiveDependencies: each new row is a reason
  useLayoutEffect(() => {
    const { current } = list;
    if (current && sticks.current) current.scrollTop = current.scrollHeight;
  }, [shown.at(-1)?.n]);
  useEffect(() => {
    const { current } = list;
    const scrolled = () => {
      if (current) sticks.current = current.scrollHeight - current.scrollTop - current.clientHeight < NEAR;
    };
    current?.addEventListener("scroll", scrolled, { passive: true });
    return () => current?.removeEventListener("scroll", scrolled);
  }, []);

  return (
    <>
      <div className="tools">
        <input
          type="search"
          value={wanted}
          placeholder="Filter by type, id or text"
          aria-label="Filter events"
          onChange={(event) => setWanted(event.target.value)}
        />
        <IconButton
          icon={held ? "play" : "pause"}
          label={held ? "Go on showing what comes" : "Hold: what comes is kept, not shown"}
          size={15}
          aria-pressed={Boolean(held)}
          onClick={() => setHeld(held ? undefined : live.entries)}
        />
        <CopyButton text={() => JSON.stringify(entries, null, 2)} label="Copy what is shown, as JSON" />
        <IconButton icon="trash" label="Clear" size={15} onClick={() => session.traffic.clear()} />
      </div>
      <div className="tools fine">
        <label>
          <input type="checkbox" checked={withDeltas} onChange={(event) => setDeltas(event.target.checked)} /> deltas
        </label>
        <span className="gap" />
        {held && <span className="chip">held</span>}
        <span>
          {count(entries.length)} of {count(live.count)}
        </span>
      </div>
      <ol className="events" ref={list} aria-label="Events">
        {shown.map((entry) => (
          <Row key={entry.n} entry={entry} isOpen={open === entry.n} onOpen={setOpen} />
        ))}
        {!shown.length && <li className="hollow">{wanted ? "Nothing fits the filter." : "Nothing has passed yet."}</li>}
      </ol>
    </>
  );
}

interface RowProps {
  entry: Passing;
  isOpen: boolean;
  onOpen(n: number | undefined): void;
}

const Row = memo(function Row({ entry, isOpen, onOpen }: RowProps) {
  const { n, direction, at, since, message } = entry;
  const { seq, from_seq } = fields(message);
  const number =
    direction === "out" ? "sent" : seq === undefined ? "·" : from_seq < seq ? `${from_seq}–${seq}` : `${seq}`;
  return (
    <li className={toneOf(entry)}>
      <button type="button" aria-expanded={isOpen} onClick={() => onOpen(isOpen ? undefined : n)}>
        <span className="seq">{number}</span>
        <span className="type">
          {message.type} <i>{gist(message)}</i>
        </span>
        <time title={exactly(at)}>{since === undefined ? exactly(at).slice(0, 8) : `+${seconds(since)}`}</time>
      </button>
      {isOpen && (
        <div className="whole">
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, with the keyboard too */}
          <pre tabIndex={0}>{JSON.stringify(message, null, 2)}</pre>
          <CopyButton text={() => JSON.stringify(message, null, 2)} label="Copy as JSON" />
        </div>
      )}
    </li>
  );
});
