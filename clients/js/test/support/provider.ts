// A model for the real server: speaks the OpenAI chat protocol over HTTP and says what the test wants, when it wants.
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

// biome-ignore lint/suspicious/noExplicitAny: the body of a chat completion
export type Asked = any;
/** Text pieces, or whole deltas; what is awaited in between holds the answer back. */
export type Script = (asked: Asked) => AsyncIterable<string | Record<string, unknown>>;

export interface Gate {
  /** Resolves when the script stands before it. */
  reached: Promise<void>;
  /** For the script: resolves when it is open. */
  pass(): Promise<void>;
  open(): void;
}

/** What a script waits at until the test opens it. */
export function gate(): Gate {
  let open = () => {};
  let arrive = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const reached = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  return {
    reached,
    open,
    pass() {
      arrive();
      return opened;
    },
  };
}

/** The next answer says `first`, and `rest` once the gate is open. */
export function hold(provider: { scripts: Script[] }, first: string, rest = ""): Gate {
  const held = gate();
  provider.scripts.push(async function* () {
    yield first;
    await held.pass();
    yield rest;
  });
  return held;
}

/** What was asked last, a word at a time. */
export const echo: Script = async function* (asked) {
  const said = asked.messages.at(-1).content as string;
  for (const word of `You said: ${said}`.split(/(?= )/)) yield word;
};

/** Calls of tools, as a delta and a finish. */
export const callTool = (name: string, args: object, id = "call_1") => ({
  tool_calls: [{ index: 0, id, type: "function", function: { name, arguments: JSON.stringify(args) } }],
});

export class Provider {
  readonly asked: Asked[] = [];
  readonly scripts: Script[] = [];
  /** Requests whose client went away before the answer had ended. */
  gone = 0;
  #waiters: (() => void)[] = [];
  #server: Server;

  constructor() {
    this.#server = createServer(async (request, response) => {
      let text = "";
      for await (const piece of request) text += piece;
      const asked = JSON.parse(text);
      this.asked.push(asked);
      this.#changed();
      const script = this.scripts.shift() ?? echo;
      response.writeHead(200, { "content-type": "text/event-stream" });
      let isGone = false;
      response.on("close", () => {
        if (response.writableEnded) return;
        isGone = true;
        this.gone += 1;
        this.#changed();
      });
      let finish = "stop";
      for await (const step of script(asked)) {
        if (isGone) return;
        const delta = typeof step === "string" ? { content: step } : step;
        if ("tool_calls" in delta) finish = "tool_calls";
        send(response, { choices: [{ index: 0, delta, finish_reason: null }] });
      }
      if (isGone) return;
      send(response, { choices: [{ index: 0, delta: {}, finish_reason: finish }] });
      send(response, { choices: [], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } });
      response.end("data: [DONE]\n\n");
    });
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/v1`;
  }

  async until(isTrue: () => boolean): Promise<void> {
    while (!isTrue()) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #changed(): void {
    for (const resolve of this.#waiters.splice(0)) resolve();
  }
}

function send(response: ServerResponse, chunk: object): void {
  const whole = { id: "c", object: "chat.completion.chunk", created: 0, model: "test-model", ...chunk };
  response.write(`data: ${JSON.stringify(whole)}\n\n`);
}
