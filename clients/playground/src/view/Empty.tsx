// Where a conversation begins: what this is, and something to try.

import { useEffect } from "react";
import { Banner } from "./Banner";
import { Composer } from "./Composer";
import { useSession } from "./context";
import { Head } from "./Head";
import { Icon, type IconName } from "./Icon";
import type { Panel } from "./inspector/Inspector";

interface Example {
  icon: IconName;
  title: string;
  says: string;
}

/** Words in these make the demonstration model show what they stand for. */
const DEMO: Example[] = [
  {
    icon: "pulse",
    title: "Stop and resume",
    says: "Write a long answer, so that I can reload the page in the middle of it",
  },
  { icon: "shield", title: "Approve a tool", says: "Send a postcard, but ask for my approval first" },
  { icon: "tool", title: "Watch tools work", says: "Use a tool or two and let me watch" },
  { icon: "screen", title: "Let it change this page", says: "Make this page purple" },
  { icon: "again", title: "Fall back in mid-answer", says: "Show a fallback: break off, then succeed" },
  { icon: "book", title: "Look something up", says: "Show reasoning and retrieval about resuming a turn" },
  { icon: "note", title: "Format an answer", says: "Show markdown with a table and code" },
  { icon: "warn", title: "Fail, and say why", says: "Please fail" },
];
/** For any model. */
const PLAIN: Example[] = [
  { icon: "pulse", title: "Stop and resume", says: "Write a long story about a lighthouse keeper" },
  { icon: "note", title: "Format an answer", says: "Compare three sorting algorithms in a table, with code for one" },
  { icon: "screen", title: "Let it change this page", says: "Give this page a colour that fits the evening" },
  { icon: "clock", title: "Use your browser", says: "What time is it where I am?" },
];

interface EmptyProps {
  inspecting: boolean;
  onMenu(): void;
  onInspect(panel: Panel | undefined): void;
}

export function Empty(props: EmptyProps) {
  const session = useSession();
  const demo = session.routes.find((route) => route.demo);
  const examples = demo ? DEMO : PLAIN;
  const begin = (text: string, options = {}) => {
    session.begin(text).send(text, options);
    session.list.refreshSoon(400);
  };
  useEffect(() => {
    document.title = "Turnwire";
  }, []);
  return (
    <>
      <Head title="New conversation" {...props} />
      <div className="empty-scroll">
        <div className="empty">
          <span className="logo big">
            <Icon name="logo" size={34} />
          </span>
          <h2>Talk to a model, then try to break it</h2>
          <p>
            This page is a client of the Turnwire server that you have started. Every answer is a durable stream of
            events: stop it, steer it, reload the page, cut the connection or kill the server, and it goes on where it
            was.
          </p>
          <ul className="examples">
            {examples.map(({ icon, title, says }) => (
              <li key={title}>
                <button
                  type="button"
                  onClick={() => begin(says, demo && session.routes.length > 1 ? { route: demo.name } : {})}
                >
                  <Icon name={icon} size={18} />
                  <span>
                    <b>{title}</b>
                    <small>{says}</small>
                  </span>
                </button>
              </li>
            ))}
          </ul>
        </div>
      </div>
      <Banner onInspect={() => props.onInspect("connection")} />
      <Composer isRunning={false} onSend={begin} onStop={() => {}} onInterrupt={() => {}} />
    </>
  );
}
