// One text for two users, who see each other's cursor and ask the assistant about what they write. The text is shared
// context: the prompts have it, and nobody has to paste it.
import { connect, type TurnwireError } from "@turnwire/client";

const area = document.querySelector("textarea") as HTMLTextAreaElement;
const people = document.querySelector("#people") as HTMLElement;
const asked = document.querySelector("#ask") as HTMLInputElement;
const advice = document.querySelector("#advice") as HTMLElement;
// In earnest the token comes from one's own server, and says who it is.
const client = connect("ws://127.0.0.1:8787/v1", { token: new URLSearchParams(location.search).get("token") ?? "" });
const conversation = client.conversation("together", { visibility: "tenant" });

/** The newest text that all have, and its version. */
const shared = () => conversation.view.context.text ?? { version: -1, value: "" };
let known = -1;

conversation.subscribe(() => {
  const { version, value } = shared();
  if (version > known && !isWriting) {
    const { selectionStart, selectionEnd } = area;
    area.value = String(value ?? "");
    area.setSelectionRange(selectionStart, selectionEnd);
    known = version;
  }
  people.textContent = conversation.view.present
    .map(({ user_id, state }) => `${user_id}${state ? ` at ${(state as { cursor: number }).cursor}` : ""}`)
    .join(", ");
});

// One change is under way at a time; what is typed meanwhile goes with the next one.
let isWriting = false;
async function write(): Promise<void> {
  if (isWriting) return;
  isWriting = true;
  for (let sent: string | undefined; sent !== area.value; ) {
    sent = area.value;
    known = Math.max(known, shared().version) + 1;
    try {
      await conversation.setContext("text", sent, known);
    } catch (error) {
      // Somebody was quicker. The last writer wins here; a real editor would merge, and then write again.
      if ((error as TurnwireError).code !== "stale_version") throw error;
      known = ((error as TurnwireError).details as { version: number }).version;
      sent = undefined;
    }
  }
  isWriting = false;
}
area.addEventListener("input", () => void write());
document.addEventListener("selectionchange", () => conversation.setPresence({ cursor: area.selectionStart }));

asked.addEventListener("change", async () => {
  const { selectionStart, selectionEnd } = area;
  const turn = conversation.send(asked.value, {
    context: { selection: area.value.slice(selectionStart, selectionEnd) },
  });
  for await (const _ of turn) advice.textContent = turn.text;
});
