import type { ConversationView } from "@turnwire/client";
import { useValue } from "../state/store";
import { IconButton } from "./Button";
import { useSession } from "./context";
import type { Panel } from "./inspector/Inspector";

interface HeadProps {
  title: string;
  present?: ConversationView["present"];
  role?: ConversationView["role"];
  inspecting: boolean;
  onMenu(): void;
  onInspect(panel: Panel | undefined): void;
}

export function Head({ title, present = [], role, inspecting, onMenu, onInspect }: HeadProps) {
  const session = useSession();
  const { state } = useValue(session.status);
  return (
    <header className="head">
      <IconButton icon="menu" label="Conversations" className="only-small" onClick={onMenu} />
      <h1>{title}</h1>
      {role && role !== "owner" && <span className="chip">{role}</span>}
      <Avatars present={present} me={session.client.welcome?.user_id} />
      <IconButton
        icon="plug"
        label={state === "open" ? "Cut the connection, to see it come back" : "The connection is cut"}
        disabled={state !== "open"}
        onClick={() => session.line.cut()}
      />
      <IconButton
        icon="pulse"
        label={inspecting ? "Close the inspector" : "Open the inspector"}
        aria-expanded={inspecting}
        className={`toggle-inspector ${inspecting ? "on" : ""}`}
        onClick={() => onInspect(inspecting ? undefined : "turn")}
      />
    </header>
  );
}

const SHOWN = 4;

/** Who follows the conversation. */
function Avatars({ present, me }: { present: ConversationView["present"]; me?: string }) {
  if (!present.length) return null;
  const rest = present.length - SHOWN;
  return (
    <ul className="avatars" aria-label="Who is here">
      {present.slice(0, SHOWN).map(({ user_id }) => (
        <li
          key={user_id}
          className="avatar"
          style={{ "--hue": hueOf(user_id) } as React.CSSProperties}
          title={user_id === me ? `${user_id} (you)` : user_id}
        >
          <span aria-hidden="true">{user_id.slice(0, 2)}</span>
          <span className="unseen">{user_id === me ? `${user_id} (you)` : user_id}</span>
        </li>
      ))}
      {rest > 0 && <li className="avatar more">+{rest}</li>}
    </ul>
  );
}

/** Always the same for the same name. */
const hueOf = (name: string) => [...name].reduce((sum, char) => (sum * 31 + (char.codePointAt(0) ?? 0)) % 360, 7);
