// The page begins here.

import { TurnwireProvider } from "@turnwire/client/react";
import { createRoot } from "react-dom/client";
import { Session } from "./state/session";
import { App } from "./view/App";
import { SessionContext } from "./view/context";

const session = new Session();

createRoot(document.getElementById("app") as HTMLElement).render(
  <TurnwireProvider client={session.client}>
    <SessionContext value={session}>
      <App />
    </SessionContext>
  </TurnwireProvider>,
);
