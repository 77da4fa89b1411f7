// The three columns, and what belongs to all of them: shortcuts, dialogs, what is said to screen readers. On small
// screens the outer columns are drawers.

import { useCallback, useEffect, useRef, useState } from "react";
import { tab } from "../state/keep";
import { useValue } from "../state/store";
import { useSession } from "./context";
import { Shortcuts } from "./dialogs/Shortcuts";
import { SignIn } from "./dialogs/SignIn";
import { Empty } from "./Empty";
import { Inspector, type Panel } from "./inspector/Inspector";
import { RoomView } from "./RoomView";
import { Sidebar } from "./Sidebar";
import { Toasts } from "./Toasts";
import { SMALL, useMedia, WIDE } from "./useMedia";
import { useShortcuts } from "./useShortcuts";

export function App() {
  const session = useSession();
  const current = useValue(session.current);
  const status = useValue(session.status);
  const isWide = useMedia(WIDE);
  const isSmall = useMedia(SMALL);
  const [isBrowsing, setBrowsing] = useState(false);
  const [panel, setPanel] = useState<Panel>(() => tab.get<Panel>("panel") ?? "turn");
  const [isInspecting, setInspecting] = useState(() => tab.get<boolean>("inspecting") ?? false);
  const [dialog, setDialog] = useState<"shortcuts" | "sign-in">();

  // A page that comes back with the inspector open leaves the focus to the message.
  const wasOpened = useRef(false);
  const inspect = useCallback(
    (wanted: Panel | undefined, turn?: string) => {
      if (turn) session.chosenTurn.set(turn);
      if (wanted) setPanel(wanted);
      wasOpened.current = true;
      if (!wanted) document.querySelector<HTMLElement>(".toggle-inspector")?.focus();
      setInspecting(Boolean(wanted));
      setBrowsing(false);
    },
    [session],
  );

  useEffect(() => tab.set("panel", panel), [panel]);
  useEffect(() => tab.set("inspecting", isInspecting), [isInspecting]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another conversation closes the drawer it was chosen in
  useEffect(() => {
    setBrowsing(false);
    if (!matchMedia(WIDE).matches) setInspecting(false);
  }, [current]);
  useEffect(() => {
    if (status.state === "unauthorized") setDialog("sign-in");
  }, [status]);

  useShortcuts({
    begin: () => session.show(),
    inspect: () => inspect(isInspecting ? undefined : panel),
    help: () => setDialog("shortcuts"),
    escape: () => {
      if (isBrowsing) setBrowsing(false);
      else if (isInspecting && !isWide) setInspecting(false);
      else return false;
      return true;
    },
  });

  return (
    <div className={`app ${isInspecting ? "inspecting" : ""} ${isBrowsing ? "browsing" : ""}`}>
      <button type="button" className="skip" onClick={() => document.getElementById("draft")?.focus()}>
        Skip to the message
      </button>
      <Sidebar
        isOpen={isBrowsing}
        isAway={isSmall ? !isBrowsing : isInspecting && !isWide}
        onClose={() => setBrowsing(false)}
        onHelp={() => setDialog("shortcuts")}
        onSignIn={() => setDialog("sign-in")}
        onConnection={() => inspect("connection")}
      />
      <main className="stage" inert={(isInspecting && !isWide) || (isBrowsing && isSmall)}>
        {current ? (
          <RoomView
            key={current}
            id={current}
            onMenu={() => setBrowsing(true)}
            onInspect={inspect}
            inspecting={isInspecting}
          />
        ) : (
          <Empty onMenu={() => setBrowsing(true)} onInspect={inspect} inspecting={isInspecting} />
        )}
        <Toasts />
      </main>
      {isInspecting && (
        <Inspector
          takesFocus={wasOpened.current}
          panel={panel}
          onPanel={setPanel}
          onClose={() => inspect(undefined)}
          roomId={current}
        />
      )}
      {/* biome-ignore lint/a11y/noStaticElementInteractions: the drawers close with Escape and with their own buttons too */}
      {/* biome-ignore lint/a11y/useKeyWithClickEvents: as above */}
      <div
        className="shade"
        onClick={() => {
          setBrowsing(false);
          if (!isWide) setInspecting(false);
        }}
      />
      {dialog === "shortcuts" && <Shortcuts onClose={() => setDialog(undefined)} />}
      {dialog === "sign-in" && <SignIn onClose={() => setDialog(undefined)} />}
      <Said />
    </div>
  );
}

function Said() {
  const said = useValue(useSession().said);
  return (
    <div className="unseen" role="status" aria-live="polite">
      {said}
    </div>
  );
}
