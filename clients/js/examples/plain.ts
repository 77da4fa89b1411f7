// A chat on a plain page. A reload, a lost network and a second tab need nothing more than what is here.
import { connect, type wire } from "@turnwire/client";

const client = connect(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1`);
const conversation = client.conversation("plain");

const app = document.querySelector("#app") as HTMLElement;
app.innerHTML = `<ol></ol><p role="status"></p>
  <form><input name="text" autocomplete="off" placeholder="Say something"><button>Send</button>
  <button type="button" name="stop">Stop</button></form>`;
const list = app.querySelector("ol") as HTMLElement;
const status = app.querySelector("[role=status]") as HTMLElement;
const form = app.querySelector("form") as HTMLFormElement;

const textOf = ({ parts }: wire.Message) =>
  parts.map((part) => (part.kind === "text" ? part.text : part.kind === "tool_call" ? `[${part.name}]` : "")).join("");

function show(): void {
  const lines = conversation.view.thread.map((message) => {
    const line = document.createElement("li");
    line.dataset.role = message.role;
    line.textContent = `${message.author ?? message.role}: ${textOf(message)}`;
    if (message.status !== "complete") line.append(` (${message.status})`);
    return line;
  });
  list.replaceChildren(...lines);
}
conversation.subscribe(show);

client.on("status", ({ state, reason, nextAttemptAt }) => {
  const seconds = nextAttemptAt && Math.ceil((nextAttemptAt - Date.now()) / 1000);
  status.textContent =
    state === "open" ? "" : [state, reason, seconds && `trying again in ${seconds} s`].filter(Boolean).join(", ");
});
// What waited too long to be sent unasked: its words go back to where they were typed.
client.on("returned", ({ input, error }) => {
  status.textContent = error?.message ?? "";
  if (typeof input === "string") (form.elements.namedItem("text") as HTMLInputElement).value = input;
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = form.elements.namedItem("text") as HTMLInputElement;
  if (field.value) conversation.send(field.value, { onBusy: "steer" });
  field.value = "";
});
form.querySelector("[name=stop]")?.addEventListener("click", () => {
  for (const { request_id } of conversation.view.active) void conversation.turn(request_id).cancel();
});
