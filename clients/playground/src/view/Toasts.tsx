import { useValue } from "../state/store";
import { IconButton } from "./Button";
import { useSession } from "./context";
import { Icon } from "./Icon";

export function Toasts() {
  const session = useSession();
  const toasts = useValue(session.toasts);
  return (
    <div className="toasts" role="log" aria-live="polite" aria-label="Notices">
      {toasts.map(({ id, tone, text }) => (
        <div key={id} className={`toast ${tone}`}>
          {tone === "bad" && <Icon name="warn" size={16} />}
          <span>{text}</span>
          <IconButton icon="close" label="Dismiss" size={14} onClick={() => session.dismiss(id)} />
        </div>
      ))}
    </div>
  );
}
