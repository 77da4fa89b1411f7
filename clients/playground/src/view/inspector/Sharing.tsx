// Who may come in: only the owner of a conversation is asked.

import type { ConversationView, wire } from "@turnwire/client";
import { type FormEvent, useState } from "react";
import type { Room } from "../../state/room";
import { Button } from "../Button";
import { useSession } from "../context";

type Role = NonNullable<wire.ConversationShare["role"]>;

const ROLES: [Role, string][] = [
  ["editor", "may write"],
  ["viewer", "may read"],
  ["owner", "owns it too"],
];

export function Sharing({ room, view }: { room: Room; view: ConversationView }) {
  const session = useSession();
  const [user, setUser] = useState("");
  const [role, setRole] = useState<Role>("editor");
  if (view.role !== "owner") return null;
  const share = (event: FormEvent) => {
    event.preventDefault();
    const name = user.trim();
    if (!name) return;
    const said = ROLES.find(([one]) => one === role)?.[1];
    session.attempt(
      room.conversation.share(name, role).then(() => {
        setUser("");
        session.toast("good", `${name} ${said} here`);
      }),
    );
  };
  return (
    <form className="sharing" onSubmit={share}>
      <label className="label" htmlFor="share-with">
        Share it with
      </label>
      <div className="row">
        <input
          id="share-with"
          value={user}
          placeholder="a user of this tenant"
          autoComplete="off"
          onChange={(event) => setUser(event.target.value)}
        />
        <select aria-label="Role" value={role} onChange={(event) => setRole(event.target.value as Role)}>
          {ROLES.map(([name, says]) => (
            <option key={name} value={name}>
              {says}
            </option>
          ))}
        </select>
        <Button type="submit" disabled={!user.trim()}>
          Share
        </Button>
      </div>
    </form>
  );
}
