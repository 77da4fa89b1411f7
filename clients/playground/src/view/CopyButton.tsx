import { useEffect, useState } from "react";
import { IconButton } from "./Button";

const SHOWN_MS = 1_500;

export function CopyButton({ text, label = "Copy" }: { text: () => string; label?: string }) {
  const [done, setDone] = useState<"copied" | "failed">();
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(undefined), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = () =>
    // Not there where the page came over plain HTTP from another machine.
    Promise.resolve(navigator.clipboard?.writeText(text()) ?? Promise.reject()).then(
      () => setDone("copied"),
      () => setDone("failed"),
    );
  const says = done === "copied" ? "Copied" : done === "failed" ? "The browser does not let this page copy" : label;
  return (
    <IconButton icon={done === "copied" ? "check" : done ? "warn" : "copy"} label={says} size={16} onClick={copy} />
  );
}
