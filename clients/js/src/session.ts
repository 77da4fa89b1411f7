// What a client says and hears on each connection: who it is and what it goes on with, what waits in the outbox, and to whom
// each message belongs. `driver` has the connection itself, `client` what is there without one.

import { claim } from "./claim.js";
import { type Client, isCreate } from "./client.js";
import type { Conversation } from "./conversation.js";
import { answered, due, lost, nextDue } from "./delivery.js";
import { Driver, type DriverOptions, type Owner } from "./driver.js";
import { errorFrom, TurnwireError } from "./errors.js";
import type { Status } from "./machine.js";
import type * as wire from "./protocol.js";
import { take } from "./take.js";
import { Turn } from "./turn.js";
import type { Placed } from "./types.js";

const MOST_RESUMED = 64;
const LATER_MS = 100;

export class Session implements Owner {
  readonly _driver: Driver;
  #resumed: Conversation[] = [];
  #isRestored = false;
  #saying: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly _client: Client,
    url: string,
    options: DriverOptions,
  ) {
    this._driver = new Driver(url, options, this);
  }

  _close(): void {
    this._driver._close();
    globalThis.removeEventListener?.("pagehide", this._client._keep);
  }

  /** Send what is due, if there is a connection. */
  _flush(): void {
    for (const entry of this._driver._isLive ? due(this._client._outbox, performance.now()) : []) {
      const { command, size, at, sent, transient } = entry;
      const { welcome, _outbox: outbox, _options: options } = this._client;
      const most = welcome?.limits.frame_bytes as number;
      if (size > most) outbox.drop(entry, new TurnwireError("too_large", `${size} of ${most} bytes`));
      else if (!transient && isCreate(command) && Date.now() - at > (options.maxAgeMs ?? 60_000)) {
        // One that may have arrived is looked for; one that has not is not sent unasked.
        if (sent) entry.command = { type: "request.status", request_id: command.request_id };
        else outbox.drop(entry, new TurnwireError("stale", "waited too long to be sent unasked", true));
      }
      if (!outbox.entries.has(entry.id)) continue;
      entry.underWay = entry.sent = true;
      this._driver._send({ ...entry.command, id: entry.id });
    }
    this._driver._run();
  }

  /** Send the newest words, soon. */
  _sayLater(): void {
    this.#saying ??= setTimeout(() => {
      this.#saying = undefined;
      for (const later of this._driver._isLive ? this._client._laters.values() : []) {
        if (!later[1]) this._driver._send(later[0]);
        later[1] = true;
      }
    }, LATER_MS);
  }

  async _ready(): Promise<void> {
    const { _memory: memory, _keep: keep } = this._client;
    await claim(memory);
    globalThis.addEventListener?.("pagehide", keep);
    if (this.#isRestored) return;
    this.#isRestored = true;
    for (const { command, conversationId, at, sent } of memory._kept.unsent) {
      const { request_id: id, segments, input } = command as wire.RequestCreate;
      const conversation = this._client.conversation(conversationId);
      const turn = conversation._turns.get(id) ?? new Turn(conversation, id, input, segments);
      if (!turn._entry) conversation._adopt(turn, command, at, sent);
    }
  }

  _hello() {
    const { _conversations: all, _memory: memory, _options: options } = this._client;
    this.#resumed = [...all.values()]
      .filter(({ _isFollowed, _isKnown, _fold, _segments }) => _isFollowed && (_isKnown || _fold.epoch) && !_segments)
      .slice(0, MOST_RESUMED);
    return {
      client: { name: options.name ?? "turnwire-js", instance_id: memory._kept.instance },
      resume: this.#resumed.map(({ id, _fold }) => ({ conversation_id: id, since: _fold.cursor })),
    };
  }

  _live(welcome: wire.Welcome): void {
    const { _memory: memory, _conversations: all, _outbox: outbox } = this._client;
    this._client.welcome = welcome;
    const user = `${welcome.tenant_id} ${welcome.user_id}`;
    const isOther = user !== (memory._kept.user ?? user);
    if (isOther) {
      outbox.fail(new TurnwireError("forbidden", "another user has signed in"));
      memory._forget();
    }
    memory._kept.user = user;
    for (const conversation of all.values()) {
      if (isOther) conversation._forget();
      if (conversation._isFollowed && (isOther || !this.#resumed.includes(conversation))) conversation._openHere();
    }
    for (const later of this._client._laters.values()) later[1] = false;
    this._sayLater();
    this._flush();
  }

  _lost(): void {
    lost(this._client._outbox);
    this.#resumed = [];
    for (const conversation of this._client._conversations.values()) conversation._lost();
  }

  _status(status: Status): void {
    this._client._setStatus(status);
  }

  _messages(messages: wire.ServerMessage[]): void {
    const events = new Map<string, Placed[]>();
    for (const message of messages) {
      const { conversation_id: id, ts } = message as Placed & { ts?: number };
      if (ts || message.type === "conversation.snapshot")
        events.set(id, [...(events.get(id) ?? []), message as Placed]);
      else this.#answer(message);
    }
    for (const [id, some] of events) this._client._conversations.get(id)?._receive(some, take);
  }

  _nextTimer(): number {
    return this._driver._isLive ? nextDue(this._client._outbox) : Number.POSITIVE_INFINITY;
  }

  _tick(): void {
    this._flush();
  }

  _traffic(direction: "in" | "out", message: wire.Command | wire.ServerMessage): void {
    this._client._emit("traffic", { direction, message });
  }

  #answer(message: wire.ServerMessage): void {
    const { ref = "", conversation_id: id = "" } = message as wire.ConversationOpened;
    const resumed = ref.startsWith("resume.") && this.#resumed[Number(ref.slice(7))];
    if (resumed && message.type === "error") resumed._refused(errorFrom(message));
    else if (message.type === "conversation.opened") this._client._conversations.get(id)?._opened(message);
    if (answered(this._client._outbox, message, performance.now())) return;
    else if (message.type === "error" && !/hello|refresh/.test(ref)) this._client._emit("error", errorFrom(message));
    if (message.type === "notice") this._client._emit("notice", message);
    this._client._conversations.get(id)?._besides(message);
  }
}
