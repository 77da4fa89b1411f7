// --- The wire: one WebSocket; commands out, frames in, and coming back after a loss ------------------------
const BACKOFF_FIRST_MS = 500,
  BACKOFF_MOST_MS = 20_000,
  STEADY_MS = 5000,
  CUT_MS = 3000;
const fullJitter = (attempt) => Math.random() * Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** attempt);

class Wire {
  /** `on`: hello() gives what to say first; welcome, frame(messages), seen(direction, message), changed(). */
  constructor(on) {
    Object.assign(this, { on, state: "connecting", calls: new Map(), attempt: 0, marks: 0, frames: 0, bytes: 0 });
    addEventListener("online", () => this.state === "waiting" && this.connect());
    document.addEventListener(
      "visibilitychange",
      () => !document.hidden && this.state === "waiting" && !this.isCut && this.connect(),
    );
  }

  connect() {
    clearTimeout(this.timer);
    this.forget();
    this.isCut = false;
    this.refusal = undefined;
    this.set("connecting");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = (this.socket = new WebSocket(`${scheme}://${location.host}/v1`, "turnwire.v1.json"));
    socket.onopen = () =>
      this.call({ type: "hello", ...this.on.hello() }).catch((error) => {
        this.refusal = error;
      });
    socket.onmessage = ({ data }) => this.receive(data);
    socket.onclose = ({ code, reason }) => this.lost(code, reason);
  }

  /** Send one frame; the promises of its answers, in order. Those of a lost connection are refused with code `lost`. */
  callAll(commands) {
    const frame = commands.map((command) => ({ ...command, id: `c${++this.marks}` }));
    const answers = frame.map(({ id }) => new Promise((resolve, reject) => this.calls.set(id, { resolve, reject })));
    if (this.socket?.readyState === WebSocket.OPEN) {
      for (const command of frame) this.on.seen("out", command);
      this.socket.send(JSON.stringify(frame.length === 1 ? frame[0] : frame));
    } else this.refuseAll();
    return answers;
  }

  call(command) {
    return this.callAll([command])[0];
  }

  receive(data) {
    this.heard = performance.now();
    this.frames += 1;
    this.bytes += data.length;
    const frame = JSON.parse(data);
    const messages = Array.isArray(frame) ? frame : [frame];
    for (const message of messages) {
      this.on.seen("in", message);
      if (message.type === "welcome") this.welcomed(message);
      const call = this.calls.get(message.ref);
      this.calls.delete(message.ref);
      if (message.type === "error") call?.reject(message);
      else call?.resolve(message);
    }
    this.on.frame(messages);
  }

  welcomed(welcome) {
    this.openedAt = performance.now();
    const beat = welcome.heartbeat_s * 1000;
    // A frame of ours is what keeps the connection alive, however much comes from the other side.
    this.heart = setInterval(() => {
      if (performance.now() - this.heard > 2.5 * beat) this.lost(0, "silent");
      else this.call({ type: "ping" }).catch(() => {});
    }, beat);
    this.set("open");
    this.on.welcome(welcome);
  }

  lost(code, reason) {
    if (this.openedAt && performance.now() - this.openedAt > STEADY_MS) this.attempt = 0;
    if (this.openedAt) this.lostAt = performance.now();
    this.forget();
    if (code >= 4500 || code === 4401) this.set("refused", { code, reason: this.refusal?.message ?? reason });
    else this.wait(fullJitter(this.attempt++));
  }

  /** Drop the connection as a tunnel would and stay away for a while. */
  cut() {
    this.lostAt = performance.now();
    this.forget();
    this.isCut = true;
    this.wait(CUT_MS);
  }

  wait(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), ms);
    this.set("waiting", { until: performance.now() + ms });
  }

  forget() {
    clearInterval(this.heart);
    this.openedAt = undefined;
    const socket = this.socket;
    this.socket = undefined;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.refuseAll();
  }

  refuseAll() {
    const calls = [...this.calls.values()];
    this.calls.clear();
    for (const { reject } of calls) reject({ code: "lost", message: "the connection was lost", retryable: true });
  }

  set(state, detail = {}) {
    this.state = state;
    this.detail = detail;
    this.on.changed();
  }
}
