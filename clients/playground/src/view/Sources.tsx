import type { Note } from "../state/notes";
import { plural } from "./format";
import { Icon } from "./Icon";

export function Sources({ retrieval }: { retrieval: NonNullable<Note["retrieval"]> }) {
  const { state, sources, reason } = retrieval;
  if (state === "running")
    return (
      <p className="progress">
        <Icon name="book" size={15} /> <span className="shimmer">Looking it up</span>
      </p>
    );
  if (state === "failed")
    return (
      <p className="progress">
        <Icon name="warn" size={15} /> Nothing could be looked up: {reason}
      </p>
    );
  return (
    <section className="sources" aria-label="Sources">
      <span className="label">
        <Icon name="book" size={15} /> {plural(sources.length, "source")}
      </span>
      <ol>
        {sources.map(({ id, title, score }, index) => (
          <li key={id} title={score === undefined ? id : `${id}, score ${score}`}>
            <b>{index + 1}</b> {title ?? id}
          </li>
        ))}
      </ol>
    </section>
  );
}
