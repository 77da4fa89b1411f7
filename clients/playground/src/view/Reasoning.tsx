import { useEffect, useState } from "react";
import { Icon } from "./Icon";

/** Open while it is written, then closed once; after that it is the reader's. */
export function Reasoning({ text, isWriting }: { text: string; isWriting: boolean }) {
  const [isOpen, setOpen] = useState(isWriting);
  useEffect(() => setOpen(isWriting), [isWriting]);
  return (
    <details className="reasoning" open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <Icon name="bulb" size={15} />
        <span className={isWriting ? "shimmer" : ""}>{isWriting ? "Thinking" : "Thought about it"}</span>
        <Icon name="right" size={13} />
      </summary>
      <p>{text}</p>
    </details>
  );
}
