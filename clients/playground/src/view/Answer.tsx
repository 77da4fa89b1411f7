// An answer: its parts in order, how it stands or ended, and what can be done with it.

import type { wire } from "@turnwire/client";
import { useState } from "react";
import { Markdown } from "../markdown/Markdown";
import type { Note } from "../state/notes";
import { Button, IconButton } from "./Button";
import { CopyButton } from "./CopyButton";
import { useSession } from "./context";
import { dollars, plural, seconds, words } from "./format";
import { Icon } from "./Icon";
import { Reasoning } from "./Reasoning";
import { Sources } from "./Sources";
import { Ended } from "./status";
import { ToolCard } from "./ToolCard";
import { type TurnViewProps, textOf } from "./TurnView";

export function Answer({ room, turn, note, isReader, onInspect }: TurnViewProps) {
  const { answer, active, folded } = turn;
  const parts = answer?.parts ?? [];
  const isWriting = active?.state === "streaming";
  const last = parts.length - 1;
  const at = (part: number) =>
    folded
      .filter((one) => one.part === part)
      .map(({ input }) =>
        input ? (
          <p key={input.message_id} className="steered">
            <Icon name="steer" size={15} /> {textOf(input)}
          </p>
        ) : null,
      );
  return (
    <div className="answer" aria-busy={Boolean(active)}>
      <h2 className="unseen">The answer</h2>
      {note?.retrieval && <Sources retrieval={note.retrieval} />}
      {parts.map((part, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a part's index is its name
        <div key={index} className="part">
          {at(index)}
          <Part
            room={room}
            requestId={turn.id}
            part={part}
            note={note}
            isLive={Boolean(active)}
            isWriting={isWriting && index === last}
            isReader={isReader}
          />
        </div>
      ))}
      {at(parts.length)}
      <Progress active={active} note={note} isEmpty={!parts.length} />
      {!active && (
        <Ended
          answer={answer}
          note={note}
          onRetry={isReader ? undefined : () => room.regenerate(turn.input.message_id, { route: note?.route })}
        />
      )}
      {!active && (
        <Foot room={room} turnId={turn.id} answer={answer} note={note} isReader={isReader} onInspect={onInspect} />
      )}
    </div>
  );
}

interface PartProps {
  room: TurnViewProps["room"];
  requestId: string;
  part: wire.Message["parts"][number];
  note?: Note;
  isLive: boolean;
  isWriting: boolean;
  isReader: boolean;
}

function Part({ room, requestId, part, note, isLive, isWriting, isReader }: PartProps) {
  if (part.kind === "text") return <Markdown text={part.text} isWriting={isWriting} />;
  if (part.kind === "reasoning") return <Reasoning text={part.text} isWriting={isWriting} />;
  return (
    <ToolCard
      room={room}
      requestId={requestId}
      call={part}
      note={note?.calls[part.call_id]}
      isLive={isLive}
      isReader={isReader}
    />
  );
}

/** What a turn does while no words come. */
function Progress({ active, note, isEmpty }: { active?: wire.ActiveRequest; note?: Note; isEmpty: boolean }) {
  if (!active || active.state === "streaming" || active.state === "waiting_approval") return null;
  const failed = note?.attempts.findLast((one) => one.failed);
  const isRetrying = failed && failed === note?.attempts.at(-1);
  const says = isRetrying
    ? `${failed.deployment} failed (${words(failed.failed?.reason ?? "")}), ${failed.failed?.next ? `trying ${failed.failed.next}` : "trying again"}`
    : active.run > 1 && isEmpty
      ? "Taken over after its server was lost"
      : active.state === "waiting_tool"
        ? "Waiting for tools"
        : "Thinking";
  return (
    <p className="progress">
      <span className="dots" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {says}
    </p>
  );
}

interface FootProps {
  room: TurnViewProps["room"];
  turnId: string;
  answer?: wire.Message;
  note?: Note;
  isReader: boolean;
  onInspect(turn: string): void;
}

function Foot({ room, turnId, answer, note, isReader, onInspect }: FootProps) {
  const session = useSession();
  const [rating, setRating] = useState<number>();
  if (!answer) return null;
  const rate = (value: number) => {
    setRating(value);
    session.attempt(room.turn(turnId).rate(value));
  };
  const model = note?.attempts.at(-1)?.model;
  const usage = note?.usage;
  const facts = [
    note?.ending && note.createdAt && seconds(note.ending.at - note.createdAt),
    usage &&
      usage.output_tokens > 0 &&
      `${usage.source === "provider" ? "" : "≈ "}${plural(usage.output_tokens, "token")}`,
    usage && Number(usage.cost_usd) > 0 && dollars(usage.cost_usd),
  ].filter(Boolean);
  return (
    <footer className="acts">
      {answer.parts.length > 0 && <CopyButton text={() => textOf(answer)} label="Copy answer" />}
      {!isReader && answer.parts.length > 0 && (
        <>
          <IconButton
            icon="again"
            label="Answer anew, on a branch of its own"
            size={16}
            onClick={() => room.regenerate(answer.message_id, { route: note?.route })}
          />
          <IconButton icon="good" label="Good answer" size={16} aria-pressed={rating === 1} onClick={() => rate(1)} />
          <IconButton icon="poor" label="Poor answer" size={16} aria-pressed={rating === -1} onClick={() => rate(-1)} />
        </>
      )}
      <Button
        tone="quiet"
        className="facts"
        title="Timings, attempts and cost of this turn"
        onClick={() => onInspect(turnId)}
      >
        {model && <span className="model">{model} · </span>}
        {facts.length ? facts.join(" · ") : "Details"}
      </Button>
    </footer>
  );
}
