// What holds the connection up, and what to do about it. Nothing while all is well, and nothing for what is over in a
// blink.

import { useEffect, useState } from "react";
import { useValue } from "../state/store";
import { Button } from "./Button";
import { useNow, useSession } from "./context";
import { Icon } from "./Icon";

const BLINK_MS = 700;

export function Banner({ onInspect }: { onInspect(): void }) {
  const session = useSession();
  const status = useValue(session.status);
  const traffic = useValue(session.traffic);
  const isByHand = useValue(session.line.offline);
  const [isLong, setLong] = useState(false);
  const now = useNow(status.state === "waiting" ? 250 : undefined);
  const isUp = status.state === "open" || status.state === "idle";

  useEffect(() => {
    if (isUp) return setLong(false);
    const timer = setTimeout(() => setLong(true), BLINK_MS);
    return () => clearTimeout(timer);
  }, [isUp]);
  useEffect(() => {
    if (isLong) {
      session.said.set("The connection is lost.");
      return () => session.said.set("Connected again.");
    }
  }, [isLong, session]);

  if (isUp && traffic.goaway)
    return (
      <Strip icon="plug" tone="plain">
        This server is going away. What runs goes on; the page moves to another one by itself.
      </Strip>
    );
  if (!isLong) return null;
  const connect = () => session.client.connect();
  switch (status.state) {
    case "waiting": {
      const left = Math.max(0, Math.ceil(((status.nextAttemptAt ?? now) - now) / 1000));
      return (
        <Strip icon="plug" tone="warn" action="Reconnect now" onAction={connect}>
          <b>Connection lost.</b> {left ? `Trying again in ${left} s.` : "Trying again."} What runs on the server goes
          on.
        </Strip>
      );
    }
    case "offline":
      return (
        <Strip
          icon="plug"
          tone="warn"
          action={isByHand ? "Go online" : "Try anyway"}
          onAction={isByHand ? () => session.line.setOffline(false) : connect}
        >
          <b>Offline{isByHand ? " by hand" : ""}.</b> What you write now is sent when the connection is back.
        </Strip>
      );
    case "closed":
      return (
        <Strip icon="plug" tone="bad" action="Connect" onAction={connect}>
          <b>Closed.</b>{" "}
          {status.code
            ? `The server says: ${status.reason} (${status.code}).`
            : "By hand; nothing is tried again by itself."}
        </Strip>
      );
    case "unauthorized":
      return (
        <Strip icon="shield" tone="bad" action="Details" onAction={onInspect}>
          <b>Not signed in.</b> The server wants a token: {status.reason}
        </Strip>
      );
    default:
      return (
        <Strip icon="plug" tone="warn">
          Connecting …
        </Strip>
      );
  }
}

interface StripProps {
  icon: "plug" | "shield";
  tone: "plain" | "warn" | "bad";
  action?: string;
  onAction?(): void;
  children: React.ReactNode;
}

function Strip({ icon, tone, action, onAction, children }: StripProps) {
  return (
    <div className={`banner ${tone}`}>
      <Icon name={icon} size={16} />
      <p>{children}</p>
      {action && (
        <Button tone="quiet" onClick={onAction}>
          {action}
        </Button>
      )}
    </div>
  );
}
