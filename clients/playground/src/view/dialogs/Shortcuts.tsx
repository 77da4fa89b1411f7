import { Dialog } from "./Dialog";

const KEYS: [string[], string][] = [
  [["Enter"], "Send"],
  [["Shift", "Enter"], "New line"],
  [["Esc"], "Stop the answer; leave an edit, a drawer, a dialog"],
  [["Alt", "N"], "New conversation"],
  [["Alt", "I"], "Open or close the inspector"],
  [["/"], "Go to the message field"],
  [["↑", "↓"], "Move in the list of conversations and in tabs"],
  [["Delete"], "Delete the conversation that has the focus in the list"],
  [["?"], "This list"],
];

export function Shortcuts({ onClose }: { onClose(): void }) {
  return (
    <Dialog title="Shortcuts and help" onClose={onClose}>
      <dl className="keys">
        {KEYS.map(([keys, what]) => (
          <div key={what}>
            <dt>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <p className="fine">
        Turnwire keeps each turn as a durable stream of events. Close this page in mid-answer, cut the connection in the
        inspector, open a second tab: the answer goes on, and comes back whole.
      </p>
    </Dialog>
  );
}
