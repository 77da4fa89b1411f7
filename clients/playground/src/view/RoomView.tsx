// One conversation: its head, its thread, its composer. Follows it while it is shown.

import { usePresence } from "@turnwire/client/react";
import { useEffect, useMemo, useState } from "react";
import type { ShownTurn } from "../state/branches";
import type { Room } from "../state/room";
import { useValue } from "../state/store";
import { Banner } from "./Banner";
import { Composer } from "./Composer";
import { useSession } from "./context";
import { Head } from "./Head";
import type { Panel } from "./inspector/Inspector";
import { Missing } from "./Missing";
import { Thread } from "./Thread";
import { Waiting } from "./Waiting";

interface RoomViewProps {
  id: string;
  inspecting: boolean;
  onMenu(): void;
  onInspect(panel: Panel | undefined, turn?: string): void;
}

const textOf = ({ input }: ShownTurn) => input.parts.map((part) => (part.kind === "text" ? part.text : "")).join("");

export function RoomView(props: RoomViewProps) {
  const session = useSession();
  const room = useMemo(() => session.room(props.id), [session, props.id]);
  const isThere = useIsThere(room);
  if (isThere === false) return <Missing {...props} why="missing" />;
  return isThere ? <Follow {...props} room={room} /> : <div className="thread-scroll" />;
}

/** An address may name a conversation that is gone; following it would make it anew. */
function useIsThere(room: Room): boolean | undefined {
  const session = useSession();
  const [isThere, setThere] = useState<boolean | undefined>(() => session.isKnown(room.id) || undefined);
  useEffect(() => {
    if (isThere !== undefined) return;
    let isLeft = false;
    session.isThere(room.id).then((found) => isLeft || setThere(found));
    return () => {
      isLeft = true;
    };
  }, [room, session, isThere]);
  return isThere;
}

function Follow({ room, id, inspecting, onMenu, onInspect }: RoomViewProps & { room: Room }) {
  const session = useSession();
  const shown = useValue(room);
  const [editing, setEditing] = useState<ShownTurn>();
  const [isTyping, setTyping] = useState(false);
  const present = usePresence(id, isTyping ? TYPING : IDLE);
  const { view, turns, running } = shown;
  const { items } = useValue(session.list);
  const first = turns[0] ?? shown.waiting[0];
  const title =
    items.find((item) => item.conversation_id === id)?.title ??
    (first ? textOf(first).slice(0, 80) : "New conversation");

  useEffect(() => {
    document.title = `${running ? "● " : ""}${title} · Turnwire`;
  }, [title, running]);

  useEffect(() => {
    if (view.status === "deleted") session.gone(id);
  }, [view.status, session, id]);

  if (view.status === "deleted" || view.status === "denied")
    return <Missing onMenu={onMenu} onInspect={onInspect} inspecting={inspecting} why={view.status} />;
  const lastRoute = shown.notes.get(turns.at(-1)?.id ?? "")?.route;
  const stop = () => running && session.attempt(room.turn(running.id).cancel("stopped by the user"));
  return (
    <>
      <Head
        title={title}
        present={present}
        role={view.role}
        onMenu={onMenu}
        onInspect={onInspect}
        inspecting={inspecting}
      />
      <Thread room={room} shown={shown} onEdit={setEditing} onInspect={(turn) => onInspect("turn", turn)} />
      <Banner onInspect={() => onInspect("connection")} />
      <Waiting room={room} shown={shown} />
      <Composer
        key={editing?.id}
        edited={editing && textOf(editing)}
        runningText={running?.answer?.parts.map((part) => (part.kind === "text" ? part.text : "")).join("")}
        isRunning={Boolean(running)}
        lastRoute={lastRoute}
        isReader={view.role === "viewer"}
        others={present
          .filter((one) => one.user_id !== session.client.welcome?.user_id && isTypingState(one.state))
          .map((one) => one.user_id)}
        onTyping={setTyping}
        onStop={stop}
        onInterrupt={(seen) => running && session.attempt(room.turn(running.id).interrupt({ presented: seen }))}
        onLeaveEdit={() => setEditing(undefined)}
        onSend={(text, options) => {
          room.send(text, editing ? { ...options, parentId: editing.input.parent_id ?? null } : options);
          setEditing(undefined);
          session.list.refreshSoon(400);
        }}
      />
    </>
  );
}

const TYPING = { typing: true };
const IDLE = { typing: false };
const isTypingState = (state: unknown) => (state as { typing?: boolean } | null)?.typing === true;
