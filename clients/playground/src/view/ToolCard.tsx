// A call of a tool, live: its arguments as they are written, whether somebody has to approve it, how far it is, what
// came out.

import type { wire } from "@turnwire/client";
import { useState } from "react";
import type { CallNote } from "../state/notes";
import type { Room } from "../state/room";
import { Approval } from "./Approval";
import { Button } from "./Button";
import { useSession } from "./context";
import { pretty, seconds, words } from "./format";
import { Icon } from "./Icon";

const STATES: Record<wire.ToolCallPart["state"], string> = {
  started: "Writing arguments",
  called: "Called",
  waiting_approval: "Needs your approval",
  running: "Running",
  completed: "Done",
  failed: "Failed",
};
const PLACES = { server: "on the server", client: "in this browser", mcp: "on an MCP server" };

interface ToolCardProps {
  room: Room;
  requestId: string;
  call: wire.ToolCallPart;
  note?: CallNote;
  isLive: boolean;
  isReader: boolean;
}

export function ToolCard({ room, requestId, call, note, isLive, isReader }: ToolCardProps) {
  const session = useSession();
  const isOpenCall = isLive && call.state !== "completed" && call.state !== "failed";
  const [isChosen, setChosen] = useState<boolean>();
  const isOpen = isChosen ?? (isOpenCall || call.state === "failed");
  const asks = isLive && call.state === "waiting_approval";
  const state = !isLive && !/completed|failed/.test(call.state) ? "failed" : call.state;
  return (
    <section className={`tool ${asks ? "asks" : state}`} aria-label={`Tool ${call.name}`}>
      <button type="button" className="tool-head" aria-expanded={isOpen} onClick={() => setChosen(!isOpen)}>
        <Icon name={asks ? "shield" : "tool"} size={16} />
        <code>{call.name}</code>
        <span className="where">{PLACES[call.where]}</span>
        <State call={call} note={note} state={state} isLive={isLive} />
        <Icon name="right" size={14} />
      </button>
      {isOpen && (
        <div className="tool-body">
          {asks ? (
            <Approval room={room} requestId={requestId} call={call} isReader={isReader} />
          ) : (
            <Field label="Arguments" value={call.arguments} isWriting={call.state === "started"} />
          )}
          {isOpenCall && note?.fraction !== undefined && (
            <div className="meter">
              <progress value={note.fraction} max={1} aria-label={`Progress of ${call.name}`} />
              <span>{note.said}</span>
            </div>
          )}
          {call.output !== undefined && <Field label="Result" value={call.output} />}
          {call.error && <Field label="Error" value={call.error} isBad />}
          {isOpenCall && call.state === "running" && !isReader && (
            <Button
              tone="quiet"
              icon="stop"
              onClick={() => session.attempt(room.turn(requestId).cancelTool(call.call_id))}
            >
              Stop this tool
            </Button>
          )}
        </div>
      )}
    </section>
  );
}

function State({
  call,
  note,
  state,
  isLive,
}: {
  call: wire.ToolCallPart;
  note?: CallNote;
  state: string;
  isLive: boolean;
}) {
  const said =
    state === "failed"
      ? words(note?.outcome ?? (call.state === "failed" ? "failed" : "ended before it finished"))
      : STATES[call.state];
  const decision =
    note?.decision === "edited" ? "approved with changes" : note?.decision === "approved" ? "approved" : "";
  const isRunning = isLive && /started|called|running/.test(state);
  return (
    <span className="tool-state">
      {isRunning && <span className="spin" aria-hidden="true" />}
      {state === "completed" && <Icon name="check" size={14} />}
      {said}
      {note?.durationMs !== undefined && ` in ${seconds(note.durationMs)}`}
      {decision && state !== "failed" && ` · ${decision}`}
    </span>
  );
}

function Field({
  label,
  value,
  isBad,
  isWriting,
}: {
  label: string;
  value: unknown;
  isBad?: boolean;
  isWriting?: boolean;
}) {
  const text = pretty(value);
  return (
    <div className="field">
      <span className="label">{label}</span>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, with the keyboard too */}
      <pre className={`${isBad ? "bad" : ""} ${isWriting ? "writing" : ""}`} tabIndex={0}>
        {text || (isWriting ? " " : "none")}
      </pre>
    </div>
  );
}
