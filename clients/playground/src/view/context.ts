import { createContext, useContext, useEffect, useState } from "react";
import type { Session } from "../state/session";

export const SessionContext = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("no session above");
  return session;
}

/** The time, again each so many milliseconds; stands still without. */
export function useNow(every?: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (every === undefined) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
