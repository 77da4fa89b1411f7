// Shared context: a note that everybody in the conversation sees and that goes into the next prompts.

import { useEffect, useRef, useState } from "react";
import type { Room } from "../../state/room";
import { useValue } from "../../state/store";
import { useSession } from "../context";
import { pretty } from "../format";
import { Sharing } from "./Sharing";

const KEY = "note";
const PAUSE_MS = 600;

const textOf = (value: unknown): string =>
  typeof value === "string" ? value : value === undefined || value === null ? "" : pretty(value);

export function SharedNote({ room }: { room: Room }) {
  const session = useSession();
  const { view } = useValue(room);
  const entry = view.context[KEY];
  const others = Object.values(view.context).filter(({ key, value }) => key !== KEY && value !== undefined);
  const shared = textOf(entry?.value);
  const [draft, setDraft] = useState<string>();
  const [state, setState] = useState<"saved" | "writing" | "saving">("saved");
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);

  const save = async (text: string) => {
    setState("saving");
    await session.attempt(room.conversation.setContext(KEY, text || null));
    setState("saved");
    setDraft(undefined);
  };
  const write = (text: string) => {
    setDraft(text);
    setState("writing");
    clearTimeout(timer.current);
    timer.current = setTimeout(() => save(text), PAUSE_MS);
  };

  return (
    <>
      <label className="label" htmlFor="shared-note">
        A note for everybody here
      </label>
      <textarea
        id="shared-note"
        rows={8}
        value={draft ?? shared}
        disabled={view.role === "viewer"}
        placeholder="Paste a draft, a selection, a decision …"
        onChange={(event) => write(event.target.value)}
      />
      <p className="fine">
        {state === "writing"
          ? "Not shared yet"
          : state === "saving"
            ? "Sharing …"
            : entry
              ? `Version ${entry.version}${entry.by ? `, by ${entry.by}` : ""}`
              : "Nothing is shared yet"}
        . It goes into the next prompts as data: ask the model about it.
      </p>
      {others.length > 0 && (
        <>
          <h3>Also shared</h3>
          <dl className="facts">
            {others.map(({ key, value, version }) => (
              <div key={key}>
                <dt>{key}</dt>
                <dd>
                  <code>{pretty(value).slice(0, 200)}</code> version {version}
                </dd>
              </div>
            ))}
          </dl>
        </>
      )}
      <Sharing room={room} view={view} />
      <h3>Who is here</h3>
      <ul className="people">
        {view.present.map(({ user_id, state: said }) => (
          <li key={user_id}>
            <b>{user_id}</b>
            <span className="fine">{(said as { typing?: boolean } | null)?.typing ? "writing" : "here"}</span>
          </li>
        ))}
      </ul>
    </>
  );
}
