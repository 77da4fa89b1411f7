import { Button } from "../Button";
import { Dialog } from "./Dialog";

interface ConfirmProps {
  title: string;
  text: string;
  action: string;
  onClose(yes: boolean): void;
}

export function Confirm({ title, text, action, onClose }: ConfirmProps) {
  return (
    <Dialog title={title} onClose={() => onClose(false)}>
      <p>{text}</p>
      <footer>
        <Button onClick={() => onClose(false)}>Keep it</Button>
        <Button tone="danger" onClick={() => onClose(true)}>
          {action}
        </Button>
      </footer>
    </Dialog>
  );
}
