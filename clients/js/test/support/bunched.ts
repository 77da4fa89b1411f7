// A page that was busy for a moment: all that has come meanwhile is handed to it at once, in one frame.
import { WebSocket } from "ws";

const BUSY_MS = 25;
type Handler<Event> = ((event: Event) => void) | null;

export class Bunched extends WebSocket {
  constructor(url: string, protocol?: string) {
    super(url, protocol);
    let waiting: unknown[] = [];
    let message: Handler<{ data: unknown }> = null;
    let close: Handler<{ code: number; reason: string }> = null;
    const deliver = () => {
      const said = waiting;
      waiting = [];
      if (said.length) message?.({ data: JSON.stringify(said) });
    };
    this.on("message", (data) => {
      if (!waiting.length) setTimeout(deliver, BUSY_MS);
      waiting = waiting.concat(JSON.parse(String(data)));
    });
    this.on("close", (code, reason) => {
      deliver();
      close?.({ code, reason: String(reason) });
    });
    Object.defineProperty(this, "onmessage", { set: (handler) => (message = handler) });
    Object.defineProperty(this, "onclose", { set: (handler) => (close = handler) });
  }
}
