// The conversations, newest first. One tab stop; arrows move in it, Delete deletes after asking.

import type { wire } from "@turnwire/client";
import { type KeyboardEvent, useEffect, useRef, useState } from "react";
import { useValue } from "../state/store";
import { setTheme, type Theme, theme } from "../state/theme";
import { Button, IconButton } from "./Button";
import { useNow, useSession } from "./context";
import { Confirm } from "./dialogs/Confirm";
import { ago } from "./format";
import { Icon, type IconName } from "./Icon";

interface SidebarProps {
  isOpen: boolean;
  /** Not to be reached: it is not seen, or something lies over it. */
  isAway: boolean;
  onClose(): void;
  onHelp(): void;
  onSignIn(): void;
  onConnection(): void;
}

export function Sidebar({ isOpen, isAway, onClose, onHelp, onSignIn, onConnection }: SidebarProps) {
  const session = useSession();
  const [removing, setRemoving] = useState<wire.ConversationItem>();
  const nav = useRef<HTMLElement>(null);
  useEffect(() => {
    if (isOpen) nav.current?.querySelector<HTMLElement>(".begin")?.focus();
  }, [isOpen]);
  return (
    <nav className={`sidebar ${isOpen ? "open" : ""}`} aria-label="Conversations" inert={isAway} ref={nav}>
      <header className="brand">
        <span className="logo">
          <Icon name="logo" size={20} />
        </span>
        <span className="name">
          Turnwire <small>playground</small>
        </span>
        <IconButton icon="close" label="Close the list" className="only-small" onClick={onClose} />
      </header>
      <Button icon="plus" className="begin" onClick={() => session.show()} title="Alt N">
        New conversation
      </Button>
      <List onRemove={setRemoving} />
      <footer className="foot">
        <Who onClick={onConnection} />
        <div className="row">
          <ThemeChoice />
          <span className="gap" />
          <IconButton icon="user" label="Sign in with a token" onClick={onSignIn} />
          <IconButton icon="question" label="Shortcuts and help" onClick={onHelp} />
        </div>
      </footer>
      {removing && (
        <Confirm
          title="Delete this conversation?"
          text={`“${removing.title ?? "Untitled"}” goes for everybody, with all its messages. What runs in it is stopped.`}
          action="Delete"
          onClose={(yes) => {
            setRemoving(undefined);
            if (yes) session.attempt(session.remove(removing.conversation_id));
          }}
        />
      )}
    </nav>
  );
}

function List({ onRemove }: { onRemove(item: wire.ConversationItem): void }) {
  const session = useSession();
  const { items, next, isLoaded } = useValue(session.list);
  const current = useValue(session.current);
  const now = useNow(30_000);
  const list = useRef<HTMLUListElement>(null);
  const stop = items.find((item) => item.conversation_id === current) ?? items[0];

  function move(event: KeyboardEvent, index: number) {
    const to = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: items.length - 1 }[event.key];
    const item = items[index];
    if (event.key === "Delete" && item?.role === "owner") onRemove(item);
    else if (to === undefined) return;
    else
      list.current
        ?.querySelectorAll<HTMLButtonElement>("button.open")
        [Math.min(Math.max(to, 0), items.length - 1)]?.focus();
    event.preventDefault();
  }

  if (!items.length)
    return (
      <p className="list-note">
        {isLoaded ? "Conversations you begin are listed here." : "Looking for conversations …"}
      </p>
    );
  return (
    <div className="list-scroll">
      <ul className="list" ref={list}>
        {items.map((item, index) => {
          const { conversation_id: id, title = "Untitled", running, updated_at, role } = item;
          return (
            <li key={id} className={id === current ? "item current" : "item"}>
              <button
                type="button"
                className="open"
                aria-current={id === current ? "page" : undefined}
                tabIndex={item === stop ? 0 : -1}
                onClick={() => session.show(id)}
                onKeyDown={(event) => move(event, index)}
              >
                <span className="title">{title}</span>
                {running ? (
                  <span className="running" title="An answer is being written">
                    <span className="unseen">running</span>
                  </span>
                ) : (
                  <time dateTime={new Date(updated_at).toISOString()}>{ago(updated_at, now)}</time>
                )}
              </button>
              {role === "owner" && (
                <IconButton
                  icon="trash"
                  label={`Delete “${title}”`}
                  size={15}
                  tabIndex={-1}
                  className="remove"
                  onClick={() => onRemove(item)}
                />
              )}
            </li>
          );
        })}
      </ul>
      {next && (
        <Button tone="quiet" className="more" onClick={() => session.attempt(session.list.more())}>
          Older conversations
        </Button>
      )}
    </div>
  );
}

const STATES: Record<string, string> = {
  idle: "Not connected",
  connecting: "Connecting",
  open: "Connected",
  waiting: "Reconnecting",
  offline: "Offline",
  unauthorized: "Not signed in",
  closed: "Closed",
};

function Who({ onClick }: { onClick(): void }) {
  const session = useSession();
  const { state } = useValue(session.status);
  const { welcome } = session.client;
  return (
    <button type="button" className="who" onClick={onClick}>
      <span className={`lamp ${state}`} />
      <span className="what">
        <b>{STATES[state]}</b>
        {welcome && (
          <small>
            {welcome.user_id} · {welcome.tenant_id}
          </small>
        )}
      </span>
      <Icon name="right" size={14} />
    </button>
  );
}

const THEMES: [Theme, IconName, string][] = [
  ["system", "screen", "Theme of the system"],
  ["light", "sun", "Light"],
  ["dark", "moon", "Dark"],
];

function ThemeChoice() {
  const chosen = useValue(theme);
  return (
    <fieldset className="choice" aria-label="Theme">
      {THEMES.map(([name, icon, label]) => (
        <IconButton
          key={name}
          icon={icon}
          label={label}
          size={15}
          aria-pressed={chosen === name}
          onClick={() => setTheme(name)}
        />
      ))}
    </fieldset>
  );
}
