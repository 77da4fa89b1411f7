// --- What is pressed -----------------------------------------------------------------------------------------
const TRIES = [
  ["Show your reasoning: why is the sky blue?", "Thinks first, then answers"],
  ["Use a tool: what time is it?", "Tool calls with live progress"],
  ["Look it up by retrieval: how does resuming work?", "Sources before the answer"],
  ["Write a long text that I can stop", "Press Esc in the middle"],
  ["Show a fallback in mid-answer", "The first attempt breaks off"],
  ["Greet me in emoji and other scripts", "Offsets beyond the basic plane"],
];
$("tries").append(
  ...TRIES.map(([text, what]) => el("button", { onclick: () => ask(text) }, text, el("small", {}, what))),
);

function fitDraft() {
  $("draft").style.height = "auto";
  $("draft").style.height = `${$("draft").scrollHeight}px`;
}
function toggleInspector(want = !$("app").classList.contains("inspecting")) {
  $("app").classList.toggle("inspecting", want);
  $("inspect").setAttribute("aria-expanded", want);
  kept.set("inspecting", want);
  if (want) {
    inspector.show(true);
    draw();
  }
}
$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("draft").value.trim();
  if (!text || $("send").disabled) return;
  const parent = app.editing ? (app.editing.parent_id ?? null) : undefined;
  $("draft").value = "";
  app.editing = null;
  fitDraft();
  ask(text, parent);
};
$("draft").oninput = () => {
  fitDraft();
  draw();
};
$("draft").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    drawNow();
    $("composer").requestSubmit();
  }
};
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("app").classList.contains("browsing")) $("app").classList.remove("browsing");
  else if (event.key === "Escape" && app.editing) edit(null);
  else if (event.key === "Escape" && !$("signin").open) stop();
  else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    select(null);
  } else if (event.altKey && event.code === "KeyI") {
    event.preventDefault();
    toggleInspector();
  }
});
const stop = () =>
  cancel(
    open()
      ?.running()
      .find((request) => !app.stopping.has(request.request_id))?.request_id,
  );
$("stop").onclick = stop;
$("earlier").onclick = () => readBack(open());
$("new").onclick = () => select(null);
$("unedit").onclick = () => edit(null);
$("cut").onclick = () => wire.cut();
$("status").onclick = () => (wire.state === "waiting" || wire.state === "refused") && wire.connect();
$("inspect").onclick = () => toggleInspector();
$("shut").onclick = () => toggleInspector(false);
$("clear").onclick = () => {
  inspector.log = [];
  inspector.show(true);
};
$("find").oninput = $("deltas").onchange = () => inspector.show(true);
$("menu").onclick = () => $("app").classList.add("browsing");
document
  .querySelector(".main")
  .addEventListener("click", (event) => event.target.closest("#menu") || $("app").classList.remove("browsing"));
$("scroll").onscroll = () => {
  stick = $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 80;
  $("latest").hidden = stick || !app.current;
};
$("latest").onclick = () => {
  stick = true;
  draw();
};
$("signin-form").onsubmit = (event) => {
  event.preventDefault();
  app.token = $("token").value.trim() || undefined;
  kept.set("token", app.token);
  $("signin").close();
  wire.connect();
};
const THEMES = ["light dark", "light", "dark"];
const setTheme = (theme) => {
  document.documentElement.style.colorScheme = theme;
  $("theme").title = `Theme: ${{ "light dark": "as the system" }[theme] ?? theme}`;
};
$("theme").onclick = () => {
  const theme = THEMES[(THEMES.indexOf(kept.get("theme") ?? THEMES[0]) + 1) % THEMES.length];
  kept.set("theme", theme);
  setTheme(theme);
};
addEventListener("hashchange", () => {
  const id = decodeURIComponent(location.hash.slice(1)) || null;
  if (id !== app.current) select(id);
});
addEventListener("pagehide", keep);

setTheme(kept.get("theme") ?? THEMES[0]);
if (kept.get("inspecting")) toggleInspector(true);
// What this tab knew goes on from its cursor; a conversation from the address begins with a snapshot.
if (app.current)
  app.conversations.set(
    app.current,
    new Conversation(app.current, (kept.get("current") === app.current && kept.get("conversation")) || {}),
  );
drawList();
wire.connect();
