// Requests that wait for the running one: in their order, each can be taken back.

import type { Room, RoomView } from "../state/room";
import { IconButton } from "./Button";
import { useSession } from "./context";
import { Icon } from "./Icon";
import { textOf } from "./TurnView";

export function Waiting({ room, shown }: { room: Room; shown: RoomView }) {
  const session = useSession();
  const { waiting } = shown;
  if (!waiting.length) return null;
  return (
    <section className="waiting" aria-label="Queued messages">
      <ol>
        {waiting.map(({ id, input, active }) => (
          <li key={id}>
            <Icon name="clock" size={14} />
            <span className="chip">Queued{active?.position ? ` · ${active.position}` : ""}</span>
            <span className="text">{textOf(input)}</span>
            <IconButton
              icon="close"
              label="Take it back"
              size={15}
              onClick={() => session.attempt(room.turn(id).cancel("taken back"))}
            />
          </li>
        ))}
      </ol>
    </section>
  );
}
