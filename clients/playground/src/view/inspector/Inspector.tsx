// What happens underneath: the chosen turn in figures, every message on the wire, the connection, what is shared.

import { type KeyboardEvent, useEffect, useRef } from "react";
import { IconButton } from "../Button";
import { useSession } from "../context";
import { Connection } from "./Connection";
import { Events } from "./Events";
import { SharedNote } from "./SharedNote";
import { TurnPanel } from "./TurnPanel";

export type Panel = "turn" | "events" | "connection" | "note";

const PANELS: [Panel, string][] = [
  ["turn", "Turn"],
  ["events", "Events"],
  ["connection", "Connection"],
  ["note", "Shared"],
];

interface InspectorProps {
  panel: Panel;
  takesFocus: boolean;
  roomId?: string;
  onPanel(panel: Panel): void;
  onClose(): void;
}

export function Inspector({ panel, takesFocus, roomId, onPanel, onClose }: InspectorProps) {
  const session = useSession();
  const tabs = useRef<HTMLDivElement>(null);
  const room = roomId && session.isKnown(roomId) ? session.room(roomId) : undefined;
  // biome-ignore lint/correctness/useExhaustiveDependencies: when it appears
  useEffect(() => {
    if (takesFocus) tabs.current?.querySelector<HTMLElement>('[aria-selected="true"]')?.focus({ preventScroll: true });
  }, []);

  function move(event: KeyboardEvent) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = PANELS.findIndex(([name]) => name === panel);
    const to = (at + step + PANELS.length) % PANELS.length;
    onPanel((PANELS[to] as (typeof PANELS)[number])[0]);
    tabs.current?.querySelectorAll<HTMLElement>("[role=tab]")[to]?.focus();
  }

  return (
    <aside className="inspector" aria-label="Inspector">
      <header>
        <div className="tabs" role="tablist" aria-label="Inspector" ref={tabs} onKeyDown={move}>
          {PANELS.map(([name, label]) => (
            <button
              key={name}
              type="button"
              role="tab"
              id={`tab-${name}`}
              aria-selected={panel === name}
              aria-controls="panel"
              tabIndex={panel === name ? 0 : -1}
              onClick={() => onPanel(name)}
            >
              {label}
            </button>
          ))}
        </div>
        <IconButton icon="close" label="Close the inspector" onClick={onClose} />
      </header>
      <div className={`panel ${panel}`} role="tabpanel" id="panel" aria-labelledby={`tab-${panel}`}>
        {panel === "turn" && (room ? <TurnPanel room={room} /> : <Nothing what="turn" />)}
        {panel === "events" && <Events />}
        {panel === "connection" && <Connection roomId={roomId} />}
        {panel === "note" && (room ? <SharedNote room={room} /> : <Nothing what="note" />)}
      </div>
    </aside>
  );
}

function Nothing({ what }: { what: "turn" | "note" }) {
  return (
    <p className="hollow">
      {what === "turn"
        ? "Say something: the timings, attempts, tokens and cost of its answer are shown here."
        : "Begin a conversation: what everybody in it shares is shown here."}
    </p>
  );
}
