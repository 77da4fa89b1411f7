// Where messages are written. While an answer is running, a message can wait for its end, be folded into it, or end it.

import type { SendOptions } from "@turnwire/client";
import { type KeyboardEvent, useEffect, useLayoutEffect, useRef, useState } from "react";
import { tab } from "../state/keep";
import { Button, IconButton } from "./Button";
import { useSession } from "./context";
import { Icon, type IconName } from "./Icon";

type Mode = "queue" | "steer" | "interrupt";

const MODES: [Mode, IconName, string, string][] = [
  ["queue", "clock", "Queue", "Answered when the running answer has ended"],
  ["steer", "steer", "Steer", "Folded into the running answer at its next step"],
  ["interrupt", "cut", "Interrupt", "Ends the running answer and goes first"],
];

interface ComposerProps {
  isRunning: boolean;
  isReader?: boolean;
  /** The message that is said differently. */
  edited?: string;
  /** The running answer's text so far: all of it is on the screen. */
  runningText?: string;
  /** Where the turn before was answered. */
  lastRoute?: string;
  /** Who else is writing. */
  others?: string[];
  onSend(text: string, options: SendOptions): void;
  onStop(): void;
  onInterrupt(seen: number): void;
  onTyping?(isTyping: boolean): void;
  onLeaveEdit?(): void;
}

export function Composer(props: ComposerProps) {
  const {
    isRunning,
    isReader,
    edited,
    runningText,
    lastRoute,
    others = [],
    onSend,
    onStop,
    onInterrupt,
    onTyping,
    onLeaveEdit,
  } = props;
  const session = useSession();
  const [text, setText] = useState(edited ?? "");
  const [mode, setMode] = useState<Mode>("queue");
  const [chosen, setChosen] = useState<string>();
  const route = chosen ?? lastRoute ?? tab.get<string>("route") ?? session.routes[0]?.name;
  const field = useRef<HTMLTextAreaElement>(null);
  const hasText = text.trim().length > 0;
  /** What is said now comes behind the running answer. */
  const isBehind = isRunning && edited === undefined;

  useFitting(field, text);
  useEffect(() => {
    // Where a keyboard would cover half of the screen it comes when it is asked for.
    if (edited !== undefined || matchMedia("(hover: hover)").matches) field.current?.focus();
  }, [edited]);
  useEffect(() => onTyping?.(hasText), [hasText, onTyping]);
  useEffect(() => {
    const escaped = (event: globalThis.KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
      if (edited !== undefined) onLeaveEdit?.();
      else if (isRunning) onStop();
    };
    addEventListener("keydown", escaped);
    return () => removeEventListener("keydown", escaped);
  });

  const send = () => {
    if (!hasText || isReader) return;
    onSend(text.trim(), { ...(isBehind && { onBusy: mode }), ...(session.routes.length > 1 && { route }) });
    setText("");
  };
  const pressed = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  };
  const label = isBehind ? (MODES.find(([name]) => name === mode)?.[2] ?? "Send") : "Send";

  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <p className="typing" aria-live="polite">
        {others.length > 0 && `${others.join(", ")} ${others.length > 1 ? "are" : "is"} writing …`}
      </p>
      <div className="box">
        {edited !== undefined && (
          <div className="editing">
            <Icon name="branch" size={14} /> Said differently, on a branch of its own
            <IconButton icon="close" label="Leave the edit" size={14} onClick={onLeaveEdit} />
          </div>
        )}
        <textarea
          id="draft"
          ref={field}
          rows={1}
          value={text}
          disabled={isReader}
          aria-label="Message"
          placeholder={
            isReader ? "You may read this conversation" : isRunning ? "Say something meanwhile …" : "Write a message …"
          }
          onChange={(event) => setText(event.target.value)}
          onKeyDown={pressed}
        />
        <div className="bar">
          {isBehind && hasText ? (
            <Modes mode={mode} onMode={setMode} />
          ) : isBehind ? (
            <span className="keys fine">
              <kbd>Esc</kbd> stops the answer
            </span>
          ) : (
            <>
              <RouteChoice route={route} onRoute={setChosen} />
              <span className="keys fine">
                <kbd>Enter</kbd> sends · <kbd>Shift</kbd> <kbd>Enter</kbd> new line
              </span>
            </>
          )}
          <span className="gap" />
          {isRunning && (
            <>
              {!hasText && (
                <Button
                  tone="quiet"
                  icon="cut"
                  className="interrupt"
                  title="Cut in: ends the answer and keeps what you have seen of it"
                  onClick={() => onInterrupt(runningText?.length ?? 0)}
                >
                  Interrupt
                </Button>
              )}
              <IconButton icon="stop" label="Stop the answer (Esc)" className="stop" onClick={onStop} />
            </>
          )}
          {(!isRunning || hasText) && (
            <button type="submit" className="send" disabled={!hasText || isReader} aria-label={label} title={label}>
              <Icon name="up" size={18} />
              {label !== "Send" && <span>{label}</span>}
            </button>
          )}
        </div>
      </div>
    </form>
  );
}

function Modes({ mode, onMode }: { mode: Mode; onMode(mode: Mode): void }) {
  return (
    <fieldset className="choice modes" aria-label="What a message does while an answer is running">
      {MODES.map(([name, icon, label, what]) => (
        <button key={name} type="button" aria-pressed={mode === name} title={what} onClick={() => onMode(name)}>
          <Icon name={icon} size={14} />
          {label}
        </button>
      ))}
    </fieldset>
  );
}

function RouteChoice({ route, onRoute }: { route?: string; onRoute(route: string): void }) {
  const { routes } = useSession();
  if (routes.length < 2) return null;
  return (
    <select
      className="route"
      aria-label="Route"
      value={route}
      onChange={(event) => {
        tab.set("route", event.target.value);
        onRoute(event.target.value);
      }}
    >
      {routes.map(({ name, demo }) => (
        <option key={name} value={name}>
          {demo ? "Demonstration model" : `Route ${name}`}
        </option>
      ))}
    </select>
  );
}

/** As high as its text, up to what the style allows. */
function useFitting(field: React.RefObject<HTMLTextAreaElement | null>, text: string): void {
  // biome-ignore lint/correctness/useExhaustiveDependencies: the text is what changes the height
  useLayoutEffect(() => {
    const { current } = field;
    if (!current) return;
    current.style.height = "auto";
    current.style.height = `${current.scrollHeight}px`;
  }, [field, text]);
}
