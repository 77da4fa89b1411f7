import { Banner } from "./Banner";
import { Button } from "./Button";
import { useSession } from "./context";
import { Head } from "./Head";
import { Icon } from "./Icon";
import type { Panel } from "./inspector/Inspector";

const WHY = {
  missing: ["There is no such conversation", "It was deleted, or it is not shared with you."],
  deleted: ["This conversation was deleted", "Its messages are gone for everybody."],
  denied: ["You may not read this conversation", "Ask its owner to share it with you."],
};

interface MissingProps {
  why: keyof typeof WHY;
  inspecting: boolean;
  onMenu(): void;
  onInspect(panel: Panel | undefined): void;
}

export function Missing({ why, ...head }: MissingProps) {
  const session = useSession();
  const [title, text] = WHY[why];
  return (
    <>
      <Head title="Turnwire" {...head} />
      <Banner onInspect={() => head.onInspect("connection")} />
      <div className="missing">
        <Icon name="book" size={32} />
        <h2>{title}</h2>
        <p>{text}</p>
        <Button tone="main" icon="plus" onClick={() => session.show()}>
          New conversation
        </Button>
      </div>
    </>
  );
}
