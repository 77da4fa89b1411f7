// One turn: what was said, and the answer with everything that was done for it.

import type { wire } from "@turnwire/client";
import { memo } from "react";
import type { ShownTurn } from "../state/branches";
import type { Note } from "../state/notes";
import type { Room } from "../state/room";
import { Answer } from "./Answer";
import { IconButton } from "./Button";
import { CopyButton } from "./CopyButton";
import { useSession } from "./context";
import { Icon } from "./Icon";

export interface TurnViewProps {
  room: Room;
  turn: ShownTurn;
  note?: Note;
  isReader: boolean;
  onEdit(turn: ShownTurn): void;
  onInspect(turn: string): void;
}

export const TurnView = memo(function TurnView(props: TurnViewProps) {
  const { room, turn, isReader, onEdit } = props;
  const session = useSession();
  const { input, isSending } = turn;
  const text = textOf(input);
  const author = input.author && input.author !== session.client.welcome?.user_id ? input.author : undefined;
  return (
    <article className="turn" data-request={turn.id}>
      <div className={isSending ? "said sending" : "said"}>
        <h2 className="unseen">{author ?? "You"} said</h2>
        {author && <span className="author">{author}</span>}
        <p className="bubble">{text}</p>
        <div className="acts">
          {isSending && (
            <span className="fine">
              <Icon name="clock" size={13} />{" "}
              {session.status.value.state === "open" ? "Sending" : "Sent when connected"}
            </span>
          )}
          <Siblings room={room} turn={turn} />
          {!isReader && !isSending && (
            <IconButton
              icon="pencil"
              label="Edit: say it differently, on a branch of its own"
              size={15}
              onClick={() => onEdit(turn)}
            />
          )}
          <CopyButton text={() => text} label="Copy message" />
        </div>
      </div>
      {!isSending && <Answer {...props} />}
    </article>
  );
}, isSame);

/** `turn` is made anew for each change anywhere; what it is made of is not. */
function isSame(a: TurnViewProps, b: TurnViewProps): boolean {
  const [x, y] = [a.turn, b.turn];
  return (
    a.note === b.note &&
    a.isReader === b.isReader &&
    x.input === y.input &&
    x.answer === y.answer &&
    x.active === y.active &&
    x.isSending === y.isSending &&
    x.siblings.length === y.siblings.length &&
    x.folded.every(({ input }, index) => input === y.folded[index]?.input) &&
    x.folded.length === y.folded.length
  );
}

function Siblings({ room, turn: { input, siblings } }: { room: Room; turn: ShownTurn }) {
  const session = useSession();
  if (siblings.length < 2) return null;
  const at = siblings.findIndex((one) => one.message_id === input.message_id);
  const choose = (to: number) => {
    const wanted = siblings[to];
    // The newest is what is shown by itself.
    if (wanted) session.attempt(room.choose(to === siblings.length - 1 ? undefined : wanted.message_id));
  };
  return (
    <fieldset className="siblings" aria-label="Branches">
      <IconButton icon="left" label="Branch before" size={14} disabled={at < 1} onClick={() => choose(at - 1)} />
      <span>
        {at + 1}/{siblings.length}
      </span>
      <IconButton
        icon="right"
        label="Next branch"
        size={14}
        disabled={at + 1 >= siblings.length}
        onClick={() => choose(at + 1)}
      />
    </fieldset>
  );
}

export const textOf = ({ parts }: wire.Message): string =>
  parts.map((part) => (part.kind === "text" ? part.text : "")).join("");
