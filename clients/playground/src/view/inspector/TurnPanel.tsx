// One turn in figures: when what happened, which deployments were tried, what it used and cost.

import type { Note } from "../../state/notes";
import type { Room } from "../../state/room";
import { useValue } from "../../state/store";
import { useNow, useSession } from "../context";
import { count, dollars, exactly, plural, seconds, words } from "../format";
import { Icon } from "../Icon";
import { textOf } from "../TurnView";

export function TurnPanel({ room }: { room: Room }) {
  const session = useSession();
  const { turns, waiting, notes } = useValue(room);
  const chosen = useValue(session.chosenTurn);
  const all = [...turns, ...waiting].filter(({ isSending }) => !isSending);
  const turn = all.find(({ id }) => id === chosen) ?? turns.findLast(({ isSending }) => !isSending);
  const note = turn && notes.get(turn.id);
  if (!turn) return <p className="hollow">Nothing has been said here yet.</p>;
  return (
    <>
      <label className="pick">
        <span className="label">Turn</span>
        <select value={turn.id} onChange={(event) => session.chosenTurn.set(event.target.value)}>
          {all.map(({ id, input }, index) => (
            <option key={id} value={id}>
              {index + 1}. {textOf(input).slice(0, 60)}
            </option>
          ))}
        </select>
      </label>
      {note?.createdAt ? (
        <Figures note={note} />
      ) : (
        <p className="hollow">This page was not there when it happened: it has the messages, not the events.</p>
      )}
      <dl className="facts">
        <dt>Request</dt>
        <dd>
          <code>{turn.id}</code>
        </dd>
        <dt>State</dt>
        <dd>{words(turn.active?.state ?? note?.ending?.type ?? turn.answer?.status ?? "unknown")}</dd>
        {note?.route && (
          <>
            <dt>Route</dt>
            <dd>{note.route}</dd>
          </>
        )}
        {(note?.run ?? 1) > 1 && (
          <>
            <dt>Run</dt>
            <dd>
              {note?.run}: taken over {plural((note?.run ?? 1) - 1, "time")}
            </dd>
          </>
        )}
        {note && (
          <>
            <dt>In the log</dt>
            <dd>
              {note.firstSeq} to {note.lastSeq}
            </dd>
          </>
        )}
      </dl>
    </>
  );
}

function Figures({ note }: { note: Note }) {
  const now = useNow(note.ending ? undefined : 200);
  const { createdAt = 0, startedAt, firstAt, ending, usage } = note;
  const end = ending?.at ?? now;
  const rate = usage && firstAt && end > firstAt ? (usage.output_tokens * 1000) / (end - firstAt) : undefined;
  return (
    <>
      <div className="figures">
        <Figure label="First token" value={firstAt ? seconds(firstAt - createdAt) : "–"} />
        <Figure label="In all" value={seconds(end - createdAt)} />
        <Figure label="Tokens" value={usage ? count(usage.input_tokens + usage.output_tokens) : "–"} />
        <Figure label="Cost" value={usage ? dollars(usage.cost_usd) : "–"} />
      </div>
      <Timeline createdAt={createdAt} startedAt={startedAt} firstAt={firstAt} end={end} isOver={Boolean(ending)} />
      <Attempts note={note} />
      {usage && (
        <p className="fine">
          {count(usage.input_tokens)} in ({count(usage.cached_tokens)} cached), {count(usage.output_tokens)} out
          {rate ? `, ${rate.toFixed(0)} a second` : ""}; counted by{" "}
          {usage.source === "provider"
            ? "the provider"
            : usage.source === "mixed"
              ? "the provider and an estimate"
              : "an estimate"}
          .
        </p>
      )}
    </>
  );
}

function Figure({ label, value }: { label: string; value: string }) {
  return (
    <div className="figure">
      <b>{value}</b>
      <span>{label}</span>
    </div>
  );
}

interface TimelineProps {
  createdAt: number;
  startedAt?: number;
  firstAt?: number;
  end: number;
  isOver: boolean;
}

function Timeline({ createdAt, startedAt, firstAt, end, isOver }: TimelineProps) {
  const phases = [
    { name: "queued", from: createdAt, to: startedAt ?? end },
    { name: "preparing", from: startedAt ?? end, to: firstAt ?? end },
    { name: "writing", from: firstAt ?? end, to: end },
  ].filter(({ from, to }) => to > from);
  const all = Math.max(1, end - createdAt);
  return (
    <div className="timeline">
      <div
        className="track"
        role="img"
        aria-label={phases.map(({ name, from, to }) => `${name} ${seconds(to - from)}`).join(", ")}
      >
        {phases.map(({ name, from, to }) => (
          <i key={name} className={name} style={{ flexGrow: Math.max((to - from) / all, 0.015) }} />
        ))}
      </div>
      <ul>
        {phases.map(({ name, from, to }) => (
          <li key={name}>
            <i className={name} /> {name} {seconds(to - from)}
            {!isOver && to === end ? " …" : ""}
          </li>
        ))}
      </ul>
    </div>
  );
}

function Attempts({ note }: { note: Note }) {
  const { attempts, usage } = note;
  const rows = usage?.attempts ?? [];
  if (!attempts.length && !rows.length) return null;
  const keys = [...new Set([...attempts, ...rows].map(({ step, attempt }) => `${step} ${attempt}`))];
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls sideways, with the keyboard too
    <section className="table" tabIndex={0} aria-label="Attempts">
      <table>
        <thead>
          <tr>
            <th scope="col">Step</th>
            <th scope="col">Deployment</th>
            <th scope="col">In</th>
            <th scope="col">Out</th>
            <th scope="col">Cost</th>
          </tr>
        </thead>
        <tbody>
          {keys.map((key) => {
            const seen = attempts.findLast(({ step, attempt }) => `${step} ${attempt}` === key);
            const row = rows.find(({ step, attempt }) => `${step} ${attempt}` === key);
            const outcome = row?.outcome ?? (seen?.failed ? "failed" : "running");
            return (
              <tr key={key} title={seen && `began at ${exactly(seen.at)}`}>
                <td>{key.replace(" ", ".")}</td>
                <td>
                  <span className={`outcome ${outcome}`}>
                    <Icon
                      name={outcome === "completed" ? "check" : outcome === "running" ? "play" : "warn"}
                      size={13}
                    />
                    {row?.deployment ?? seen?.deployment}
                  </span>
                  <small>
                    {seen?.failed ? words(seen.failed.reason) : outcome === "completed" ? seen?.model : words(outcome)}
                  </small>
                </td>
                <td>{row ? count(row.input_tokens) : "–"}</td>
                <td>{row ? count(row.output_tokens) : "–"}</td>
                <td>{row ? dollars(row.cost_usd) : "–"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </section>
  );
}
