// Sockets, the one timer and the page's events, moved by the `machine`: it says what to do, this does it and tells it
// what became of that. Knows frames, but no conversation, and no command but `hello`, `ping` and `auth.refresh`.

import { Machine, type Status, type TokenReason } from "./machine.js";
import type { Command, Hello, ServerMessage, Welcome } from "./protocol.js";
import type { Codec } from "./types.js";

export type TokenSource =
  | string
  | ((about: { reason: TokenReason }) => string | undefined | Promise<string | undefined>);
/** What is used of a WebSocket; the browser's, Node's and that of `ws` have it. */
export interface SocketClass {
  // biome-ignore lint/suspicious/noExplicitAny: their event types differ
  new (url: string, protocols?: string): any;
}

export interface DriverOptions {
  token?: TokenSource;
  codec: Codec | (() => Promise<Codec>);
  WebSocket?: SocketClass;
}

/** Whom this works for: the client. */
export interface Owner {
  /** Resolves once it may be said who this client is. */
  _ready(): Promise<unknown>;
  _hello(): Omit<Hello, "type">;
  _live(welcome: Welcome): void;
  _lost(): void;
  _messages(messages: ServerMessage[]): void;
  _status(status: Status): void;
  /** When `_tick` is to be called, at the latest. */
  _nextTimer(): number;
  _tick(): void;
  _traffic(direction: "in" | "out", message: Command | ServerMessage): void;
}

const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class Driver {
  readonly _machine = new Machine(Math.random);
  #sockets = new Map<number, InstanceType<SocketClass>>();
  #tokens = new Map<number, string | undefined>();
  #current = 0;
  /** How far the server's clock is ahead of ours. */
  #skew = 0;
  #codec!: Codec;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #watching: AbortController | undefined;

  constructor(
    private readonly _url: string,
    private readonly _options: DriverOptions,
    private readonly _owner: Owner,
  ) {}

  /** Monotonic: a clock that is put right does not stop anything. */
  _now = () => performance.now();

  _want(): void {
    if (!this.#watching && typeof addEventListener === "function") {
      this.#watching = new AbortController();
      for (const name of ["online", "offline", "pageshow", "visibilitychange"])
        addEventListener(name, this.#woke, this.#watching);
    }
    this._machine.want(this._now());
    this._run();
  }

  _close(): void {
    this.#watching?.abort();
    this.#watching = undefined;
    this._machine.close();
    this._run();
  }

  /** On the live connection. */
  _send(command: Command): void {
    this.#send(this.#current, command);
  }

  get _isLive(): boolean {
    return this._machine.isLive(this.#current);
  }

  /** Do what the machine wants, and set the timer. To be called after whatever may have changed something. */
  _run(): void {
    this.#act();
    clearTimeout(this.#timer);
    const delay = Math.min(this._machine.nextTimer(), this._owner._nextTimer()) - this._now();
    if (delay < Number.POSITIVE_INFINITY)
      this.#timer = setTimeout(this.#tick, Math.min(Math.max(delay, 0), LONGEST_TIMER_MS));
  }

  #tick = () => {
    this._machine.tick(this._now());
    this._owner._tick();
    this._run();
  };

  #woke = ({ type }: Event) => {
    // A page that is hidden may be asleep in a moment: it is looked after when it is seen again.
    if (type[0] !== "o" && document.visibilityState === "hidden") return;
    this._machine.woke(navigator.onLine, this._now());
    this._run();
  };

  #act(): void {
    for (let action = this._machine.actions.shift(); action; action = this._machine.actions.shift()) {
      const [what, link, about] = action;
      if (what === "live") {
        this.#current = link;
        this.#skew = about.server_time - Date.now();
        this._owner._live(about);
      } else if (what === "token") this.#token(link, about);
      else if (what === "dial") this.#dial(link);
      else if (what === "hello")
        this.#send(link, { type: "hello", id: what, token: this.#tokens.get(link), ...this._owner._hello() });
      else if (what === "ping") this.#send(link, { type: "ping" });
      else if (what === "refresh") this.#send(link, { type: "auth.refresh", id: what, token: about });
      else if (what === "drop") this.#drop(link);
      else if (what === "lost") this._owner._lost();
      else if (what === "status") this._owner._status(link);
    }
  }

  #token(link: number, reason: TokenReason): void {
    const { token, codec } = this._options;
    const load = async () => {
      this.#codec ??= typeof codec === "function" ? await codec() : codec;
      await this._owner._ready();
      return typeof token === "function" ? token({ reason }) : token;
    };
    load()
      .then(
        (given) => {
          this.#tokens.set(link, given);
          this._machine.token(link, given, this._now());
        },
        (error) => this._machine.noToken(link, `no token: ${error}`, this._now()),
      )
      .then(() => this._run());
  }

  #dial(link: number): void {
    const Socket = this._options.WebSocket ?? globalThis.WebSocket;
    const failed = (reason: string, code?: number) => {
      this._machine.failed(link, this._now(), reason, code);
      this._run();
    };
    try {
      const socket = new Socket(this._url, this.#codec.protocol);
      this.#sockets.set(link, socket);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => {
        this._machine.dialed(link, this._now());
        this._run();
      };
      socket.onmessage = ({ data }: MessageEvent) => {
        let messages: ServerMessage[];
        try {
          messages = this.#codec.decode(data);
        } catch (error) {
          return failed(`${error}`); // nobody knows what was in it; coming back brings it again
        }
        this.#receive(link, messages);
      };
      socket.onerror = () => {}; // a close follows
      socket.onclose = ({ code, reason }: CloseEvent) => failed(reason || `closed with ${code}`, code);
    } catch (error) {
      failed(`${error}`);
    }
  }

  #receive(link: number, messages: ServerMessage[]): void {
    const machine = this._machine;
    const now = this._now();
    machine.received(link);
    for (const message of messages) {
      this._owner._traffic("in", message);
      if (message.type === "welcome") machine.welcomed(link, message, now);
      else if (message.type === "goaway") machine.goaway(message, now);
      else if (message.type === "ack" && message.ref === "refresh")
        machine.renewed(message.expires_at && message.expires_at - Date.now() - this.#skew, now);
      else if (message.type === "error") {
        const { ref, code, retry_after_ms } = message;
        if (ref === "refresh") machine.noToken(link, message.message, now);
        else if (ref === "hello" || !ref) machine.stayAway(retry_after_ms);
        else if (code === "unauthenticated") machine.expired(now);
      }
    }
    this.#act();
    if (machine.isLive(link)) this._owner._messages(messages);
    this._run();
  }

  #send(link: number, command: Command): void {
    const socket = this.#sockets.get(link);
    if (socket?.readyState !== 1) return; // its close is on its way here
    this._owner._traffic("out", command);
    socket.send(this.#codec.encode(command));
    this._machine.sent(link, this._now());
  }

  #drop(link: number): void {
    const socket = this.#sockets.get(link);
    this.#sockets.delete(link);
    this.#tokens.delete(link);
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
}
