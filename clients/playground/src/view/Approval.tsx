// A tool that somebody has to approve: as it is, with other arguments, or not at all.

import type { wire } from "@turnwire/client";
import { useId, useState } from "react";
import type { Room } from "../state/room";
import { Button } from "./Button";
import { useNow, useSession } from "./context";
import { pretty, seconds } from "./format";

interface ApprovalProps {
  room: Room;
  requestId: string;
  call: wire.ToolCallPart;
  isReader: boolean;
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return value && typeof value === "object" && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

export function Approval({ room, requestId, call, isReader }: ApprovalProps) {
  const session = useSession();
  const id = useId();
  const asked = pretty(call.approval?.arguments ?? call.arguments);
  const [draft, setDraft] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const left = (call.approval?.expires_at ?? 0) - useNow(1000);
  const edited = draft === undefined ? undefined : parsed(draft);
  const turn = () => room.turn(requestId);
  const decide = async (what: Promise<unknown>) => {
    setBusy(true);
    await session.attempt(what);
    setBusy(false);
  };
  return (
    <div className="approval">
      <label className="label" htmlFor={id}>
        {draft === undefined ? "It wants to run with these arguments" : "Run it with these arguments instead"}
      </label>
      {draft === undefined ? (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, with the keyboard too
        <pre id={id} tabIndex={0}>
          {asked}
        </pre>
      ) : (
        <textarea
          id={id}
          value={draft}
          rows={Math.min(12, draft.split("\n").length + 1)}
          spellCheck={false}
          aria-invalid={!edited}
          aria-describedby={edited ? undefined : `${id}-fault`}
          onChange={(event) => setDraft(event.target.value)}
        />
      )}
      {draft !== undefined && !edited && (
        <p className="fault" id={`${id}-fault`}>
          This is no JSON object yet.
        </p>
      )}
      {!isReader && (
        <div className="row">
          <Button
            tone="main"
            icon="check"
            disabled={isBusy || (draft !== undefined && !edited)}
            onClick={() => decide(turn().approve(call.call_id, edited))}
          >
            {edited ? "Approve with changes" : "Approve"}
          </Button>
          <Button icon="pencil" disabled={isBusy} onClick={() => setDraft(draft === undefined ? asked : undefined)}>
            {draft === undefined ? "Edit" : "Undo edit"}
          </Button>
          <Button
            icon="close"
            disabled={isBusy}
            onClick={() => decide(turn().deny(call.call_id, "denied by the user"))}
          >
            Deny
          </Button>
          {left > 0 && <span className="fine">expires in {seconds(left)}</span>}
        </div>
      )}
    </div>
  );
}
