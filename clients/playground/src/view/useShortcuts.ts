import { useEffect, useRef } from "react";

interface Shortcuts {
  begin(): void;
  inspect(): void;
  help(): void;
  /** Whether there was something to leave. */
  escape(): boolean;
}

const isTyping = (target: EventTarget | null) =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

/** Keys that work everywhere. What they do is listed in `Shortcuts`. */
export function useShortcuts(shortcuts: Shortcuts): void {
  const now = useRef(shortcuts);
  now.current = shortcuts;
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
      const { begin, inspect, help, escape: leave } = now.current;
      const done =
        event.altKey && event.code === "KeyN"
          ? begin()
          : event.altKey && event.code === "KeyI"
            ? inspect()
            : event.key === "?" && !isTyping(event.target)
              ? help()
              : event.key === "/" && !isTyping(event.target)
                ? document.getElementById("draft")?.focus()
                : event.key === "Escape"
                  ? leave() || undefined
                  : null;
      if (done === null) return;
      if (event.key !== "Escape" || done) event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}
