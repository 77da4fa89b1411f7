// The WebSocket that the client is given, with a hand on the plug: sockets can be cut as a network cuts them, and the
// page can be told that it is offline. The client cannot tell either from the real thing. Counts what passes.

import { Store } from "./store";

export interface Passed {
  sockets: number;
  bytesIn: number;
  bytesOut: number;
}

export class Line {
  readonly offline = new Store(false);
  readonly passed: Passed = { sockets: 0, bytesIn: 0, bytesOut: 0 };
  readonly Socket: typeof WebSocket;
  #live = new Set<{ cut(): void }>();

  constructor() {
    const line = this;
    this.Socket = class extends WebSocket {
      constructor(url: string | URL, protocols?: string | string[]) {
        if (line.offline.value) throw new Error("this page is offline by hand");
        super(url, protocols);
        line.#live.add(this);
        line.passed.sockets += 1;
        this.addEventListener("close", () => line.#live.delete(this));
        this.addEventListener("message", ({ data }) => {
          line.passed.bytesIn += data.length ?? data.byteLength;
        });
      }

      override send(data: Parameters<WebSocket["send"]>[0]): void {
        line.passed.bytesOut += (data as string).length ?? (data as ArrayBuffer).byteLength;
        super.send(data);
      }

      /** Gone without a word, as far as the client can see. */
      cut(): void {
        const told = this.onclose;
        this.onclose = this.onmessage = this.onopen = null;
        this.close();
        told?.call(this, new CloseEvent("close", { code: 1006, reason: "cut by hand" }));
      }
    };
  }

  cut(): void {
    for (const socket of [...this.#live]) socket.cut();
  }

  setOffline(isOffline: boolean): void {
    if (isOffline === this.offline.value) return;
    this.offline.set(isOffline);
    if (isOffline) Object.defineProperty(navigator, "onLine", { configurable: true, get: () => false });
    else Reflect.deleteProperty(navigator, "onLine");
    dispatchEvent(new Event(isOffline ? "offline" : "online"));
    if (isOffline) this.cut();
  }
}
