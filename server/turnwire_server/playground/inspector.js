// --- The inspector: every message on the wire, newest last ---------------------------------------------------
const SHOWN_EVENTS = 600;
const excerpt = ({
  text,
  name,
  verdict,
  outcome,
  code,
  reason,
  model,
  finish_reason,
  said = text ?? name ?? verdict ?? outcome ?? code ?? reason ?? model ?? finish_reason ?? "",
}) => String(said).trimStart().slice(0, 40).replaceAll("\n", "⏎");
const inspector = {
  log: [],
  count: 0,
  add(direction, message) {
    this.count += message.seq ? 1 : 0;
    this.log.push({ direction, message: message.token ? { ...message, token: "…" } : message, at: new Date() });
    if (this.log.length > SHOWN_EVENTS) this.log.shift();
    this.fresh = (this.fresh ?? 0) + 1;
  },
  fits({ message }) {
    const wanted = $("find").value.trim().toLowerCase();
    return (
      ($("deltas").checked || !message.type.endsWith(".delta")) &&
      (!wanted || `${message.type} ${message.request_id ?? ""}`.toLowerCase().includes(wanted))
    );
  },
  row({ direction, message, at }) {
    const { type, seq, from_seq } = message;
    const kind =
      direction === "out"
        ? "out"
        : type === "error" || type.endsWith(".failed")
          ? "bad"
          : message.terminal
            ? "end"
            : type.endsWith(".delta")
              ? "delta"
              : "";
    const time = `${at.toTimeString().slice(0, 8)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
    const number = direction === "out" ? "sent" : seq ? (from_seq && from_seq < seq ? `${from_seq}–${seq}` : seq) : "·";
    const row = el(
      "details",
      { className: `event ${kind}` },
      el(
        "summary",
        {},
        el("span", { className: "seq" }, String(number)),
        el("span", { className: "type" }, type, el("i", {}, excerpt(message))),
        el("span", { className: "at" }, time),
      ),
    );
    row.ontoggle = () =>
      row.open && row.children.length === 1 && row.append(el("pre", {}, JSON.stringify(message, null, 2)));
    return row;
  },
  /** Only while it is open: closed, it costs an array entry per message. */
  show(all) {
    const list = $("events");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    const rows = (all ? this.log : this.log.slice(-(this.fresh ?? 0) || this.log.length))
      .filter((entry) => this.fits(entry))
      .map((entry) => this.row(entry));
    if (all) list.replaceChildren(...rows);
    else if (this.fresh) list.append(...rows);
    this.fresh = 0;
    while (list.children.length > SHOWN_EVENTS) list.firstChild.remove();
    if (atEnd || all) list.scrollTop = list.scrollHeight;
  },
};
