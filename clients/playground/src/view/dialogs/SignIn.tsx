import { type FormEvent, useRef } from "react";
import { useValue } from "../../state/store";
import { Button } from "../Button";
import { useSession } from "../context";
import { Dialog } from "./Dialog";

export function SignIn({ onClose }: { onClose(): void }) {
  const session = useSession();
  const status = useValue(session.status);
  const field = useRef<HTMLTextAreaElement>(null);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    session.signIn(field.current?.value.trim());
    onClose();
  };
  return (
    <Dialog title="Sign in with a token" onClose={onClose}>
      <form onSubmit={submit}>
        {status.state === "unauthorized" && (
          <p className="fault" role="alert">
            The server does not take what it was given: {status.reason}
          </p>
        )}
        <p>
          It stays in this tab. <code>turnwire token --user ada</code> makes one for development; another user in
          another window shows presence and shared notes.
        </p>
        <label htmlFor="token">Token</label>
        <textarea id="token" ref={field} rows={4} spellCheck={false} autoComplete="off" placeholder="eyJ…" />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button tone="main" type="submit">
            Sign in
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
