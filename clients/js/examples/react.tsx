// The same in React.
import { connect, type wire } from "@turnwire/client";
import { TurnwireProvider, useConversation, usePresence, useStatus } from "@turnwire/client/react";
import { type FormEvent, useState } from "react";

const client = connect("ws://127.0.0.1:8787/v1");

export function App() {
  return (
    <TurnwireProvider client={client}>
      <Connection />
      <Chat id="react" />
    </TurnwireProvider>
  );
}

function Connection() {
  const { state, reason } = useStatus();
  return state === "open" ? null : <p role="status">{reason ? `${state}: ${reason}` : state}</p>;
}

function Chat({ id }: { id: string }) {
  const { thread, active, send, conversation, hasOlder, loadOlder } = useConversation(id);
  const present = usePresence(id);
  const [text, setText] = useState("");
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (text) send(text, { onBusy: "queue" });
    setText("");
  };
  const stop = () => active.forEach(({ request_id }) => void conversation.turn(request_id).cancel());
  return (
    <form onSubmit={submit}>
      <p>Here: {present.map(({ user_id }) => user_id).join(", ")}</p>
      {hasOlder && (
        <button type="button" onClick={() => loadOlder()}>
          Older
        </button>
      )}
      {thread.map((message) => (
        <Line key={message.message_id} message={message} />
      ))}
      <input value={text} onChange={(event) => setText(event.target.value)} />
      <button type="submit">Send</button>
      <button type="button" onClick={stop} disabled={!active.length}>
        Stop
      </button>
    </form>
  );
}

function Line({ message }: { message: wire.Message }) {
  const text = message.parts.map((part) => (part.kind === "tool_call" ? `[${part.name}: ${part.state}]` : part.text));
  return (
    <p data-status={message.status}>
      {message.role}: {text.join("")}
    </p>
  );
}
