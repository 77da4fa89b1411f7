// How a turn ended, when it did not simply end: a chip, or a box with what to do.

import type { wire } from "@turnwire/client";
import type { Note } from "../state/notes";
import { Button } from "./Button";
import { Icon } from "./Icon";

const INCOMPLETE: Record<string, string> = {
  length: "Cut off at the limit of tokens",
  content_filter: "Ended by a content filter",
  budget: "Ended: the budget of this turn is used up",
  steps: "Ended: too many steps",
  node_lost: "Incomplete: its server was lost too often",
  deadline: "Ended: it took too long",
};

const ADVICE: Record<string, string> = {
  provider_auth: "The provider does not accept the server's key. Whoever runs the server has to look at it.",
  provider_rate_limited: "The provider has too much to do. Wait a little, then try again.",
  provider_timeout: "The provider did not answer in time. Trying again often helps.",
  provider_cut: "The provider broke off in mid-answer. Try again.",
  provider_error: "The model failed. Try again; if it fails again, say it differently.",
  unavailable: "A part of the server does not answer. Try again in a moment.",
  internal: "A fault of the server. Try again, and tell whoever runs it.",
};

interface EndedProps {
  answer?: wire.Message;
  note?: Note;
  onRetry?(): void;
}

export function Ended({ answer, note, onRetry }: EndedProps) {
  const ending = note?.ending;
  const status = ending?.type === "completed" ? "complete" : (ending?.type ?? answer?.status);
  switch (status) {
    case "failed": {
      const { code = "", message = "The turn failed." } = ending?.error ?? {};
      return (
        <div className="failure" role="alert">
          <Icon name="warn" size={18} />
          <div>
            <b>{message}</b>
            <p>{ADVICE[code] ?? "Try again."}</p>
          </div>
          {onRetry && (
            <Button icon="again" onClick={onRetry}>
              Try again
            </Button>
          )}
        </div>
      );
    }
    case "cancelled":
      return <Chip icon="stop" text={answer?.parts.length ? "Stopped" : "Taken back before it began"} />;
    case "interrupted": {
      const { generated, presented, basis, reason } = ending ?? {};
      const said = reason === "superseded" ? "Interrupted by your next message" : "Interrupted";
      const kept =
        generated === undefined || presented === undefined
          ? "kept as far as it was seen"
          : `${presented} of ${generated} characters kept${basis === "assumed" ? " (as far as sent)" : ", as far as seen"}`;
      return <Chip icon="cut" text={`${said} · ${kept}`} />;
    }
    case "incomplete":
      return <Chip icon="warn" tone="warn" text={INCOMPLETE[ending?.reason ?? ""] ?? "Incomplete"} />;
    case undefined:
      return <Chip icon="question" text="No answer is on record" />;
    default:
      if ((note?.run ?? 1) > 1) return <Chip icon="again" text="Its server was lost; another one went on" />;
      return note?.resets ? <Chip icon="again" text="An attempt broke off; this is the next one" /> : null;
  }
}

function Chip({
  icon,
  text,
  tone = "plain",
}: {
  icon: "stop" | "cut" | "warn" | "question" | "again";
  text: string;
  tone?: "plain" | "warn";
}) {
  return (
    <p className={`chip ending ${tone}`}>
      <Icon name={icon} size={14} /> {text}
    </p>
  );
}
