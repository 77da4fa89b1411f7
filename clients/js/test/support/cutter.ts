// A network between client and server that a test can cut: at once, after some bytes, or silently.
import { createServer, connect as dial, type Server, type Socket } from "node:net";

export class Cutter {
  port = 0;
  /** Connections that were made so far. */
  made = 0;
  /** Bytes from the server after which the next connection is cut. */
  budgets: number[] = [];
  #pairs = new Set<[Socket, Socket]>();
  #isDown = false;
  #server: Server;

  constructor(target: number) {
    this.#server = createServer((near) => {
      if (this.#isDown) return void near.destroy();
      this.made += 1;
      const far = dial(target, "127.0.0.1");
      const pair: [Socket, Socket] = [near, far];
      this.#pairs.add(pair);
      let left = this.budgets.shift() ?? Number.POSITIVE_INFINITY;
      far.on("data", (data) => {
        near.write(data.subarray(0, left));
        left -= data.length;
        if (left <= 0) this.#cut(pair);
      });
      near.on("data", (data) => far.write(data));
      for (const socket of pair) {
        socket.on("error", () => {});
        socket.on("close", () => this.#cut(pair));
      }
    });
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.port = (this.#server.address() as { port: number }).port;
  }

  /** All connections end now. */
  cut(): void {
    for (const pair of [...this.#pairs]) this.#cut(pair);
  }

  /** Nothing gets through, until `up`. */
  down(): void {
    this.#isDown = true;
    this.cut();
  }

  up(): void {
    this.#isDown = false;
  }

  get open(): number {
    return this.#pairs.size;
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #cut(pair: [Socket, Socket]): void {
    this.#pairs.delete(pair);
    for (const socket of pair) socket.destroy();
  }
}

export async function startCutter(target: number): Promise<Cutter> {
  const cutter = new Cutter(target);
  await cutter.start();
  return cutter;
}
