// The turns of a branch. The reader's place is theirs: the thread follows what is written only while its end is seen.

import { useEffect, useRef, useState } from "react";
import type { ShownTurn } from "../state/branches";
import type { Room, RoomView } from "../state/room";
import { Button } from "./Button";
import { useSession } from "./context";
import { Icon } from "./Icon";
import { TurnView } from "./TurnView";
import { useSticky } from "./useSticky";

interface ThreadProps {
  room: Room;
  shown: RoomView;
  onEdit(turn: ShownTurn): void;
  onInspect(turn: string): void;
}

export function Thread({ room, shown, onEdit, onInspect }: ThreadProps) {
  const session = useSession();
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const { isAtEnd, toEnd } = useSticky(scroller, content);
  const { turns, notes, view, leaf } = shown;
  const newest = turns.at(-1);
  const sent = newest?.isSending ? newest.id : undefined;

  // What one has said oneself is always shown.
  useEffect(() => {
    if (sent) toEnd();
  }, [sent, toEnd]);

  return (
    <div className="thread-area">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, with the keyboard too */}
      <section className="thread-scroll" ref={scroller} tabIndex={0} aria-label="Messages">
        <div className="thread" ref={content}>
          <Older room={room} hasOlder={view.hasOlder} scroller={scroller} />
          {view.status === "opening" && !turns.length && <Skeleton />}
          {turns.map((turn) => (
            <TurnView
              key={turn.id}
              room={room}
              turn={turn}
              note={notes.get(turn.id)}
              isReader={view.role === "viewer"}
              onEdit={onEdit}
              onInspect={onInspect}
            />
          ))}
          {leaf && (
            <p className="aside">
              <Icon name="branch" size={15} /> This is an older branch.
              <Button tone="quiet" onClick={() => session.attempt(room.choose(undefined))}>
                Show the newest
              </Button>
            </p>
          )}
        </div>
      </section>
      {!isAtEnd && (
        <Button icon="down" className="latest" onClick={toEnd}>
          Jump to latest
        </Button>
      )}
    </div>
  );
}

function Older({
  room,
  hasOlder,
  scroller,
}: {
  room: Room;
  hasOlder: boolean;
  scroller: React.RefObject<HTMLElement | null>;
}) {
  const session = useSession();
  const [isLoading, setLoading] = useState(false);
  if (!hasOlder) return null;
  const load = async () => {
    const at = scroller.current;
    const fromEnd = at ? at.scrollHeight - at.scrollTop : 0;
    setLoading(true);
    await session.attempt(room.conversation.loadOlder(50));
    setLoading(false);
    // What was seen stays where it was.
    requestAnimationFrame(() => at?.scrollTo({ top: at.scrollHeight - fromEnd }));
  };
  return (
    <Button tone="quiet" className="older" disabled={isLoading} onClick={load}>
      {isLoading ? "Loading …" : "Earlier messages"}
    </Button>
  );
}

function Skeleton() {
  return (
    <div className="skeleton" aria-hidden="true">
      <i />
      <i />
      <i />
    </div>
  );
}
