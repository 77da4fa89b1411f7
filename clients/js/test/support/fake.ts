// A server that a test drives by hand: a WebSocket class that is open when the test says so, and frames that the test
// writes. Unrealistic in that it judges nothing. `serve` makes it answer the usual commands by itself; to extend it, add
// a case there or give `serve` a function that is asked first.
import type { Command, Message, ServerMessage } from "../../src/protocol.js";

type Answer = ServerMessage | ServerMessage[] | undefined;

export class FakeSocket {
  static all: FakeSocket[] = [];
  /** Called with each new one. */
  static born: (socket: FakeSocket) => void = () => {};
  readyState = 0;
  binaryType = "";
  readonly sent: Command[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  closedBy: "client" | "server" | undefined;
  /** Called with each command. */
  hears: (command: Command) => void = () => {};

  constructor(
    readonly url: string,
    readonly protocol?: string,
  ) {
    FakeSocket.all.push(this);
    FakeSocket.born(this);
  }

  static reset(): void {
    FakeSocket.all = [];
    FakeSocket.born = () => {};
  }

  static get last(): FakeSocket {
    return FakeSocket.all.at(-1) as FakeSocket;
  }

  /** Those that neither side has closed. */
  static get alive(): FakeSocket[] {
    return FakeSocket.all.filter(({ closedBy }) => !closedBy);
  }

  send(data: string): void {
    const command = JSON.parse(data) as Command;
    this.sent.push(command);
    this.hears(command);
  }

  close(): void {
    this.readyState = 3;
    this.closedBy ??= "client";
  }

  // What the test does.

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  say(...messages: ServerMessage[]): void {
    this.onmessage?.({ data: JSON.stringify(messages.length === 1 ? messages[0] : messages) });
  }

  end(code = 1006, reason = ""): void {
    this.readyState = 3;
    this.closedBy ??= "server";
    this.onclose?.({ code, reason });
  }

  /** The last command of a type. */
  heard<Type extends Command["type"]>(type: Type): Extract<Command, { type: Type }> {
    const found = this.sent.findLast((command) => command.type === type);
    if (!found) throw new Error(`no ${type} among ${this.sent.map((command) => command.type)}`);
    return found as Extract<Command, { type: Type }>;
  }
}

export const welcome = (about: Partial<Extract<ServerMessage, { type: "welcome" }>> = {}): ServerMessage => ({
  type: "welcome",
  ref: "hello",
  connection_id: "k1",
  tenant_id: "acme",
  user_id: "ann",
  node_id: "n1",
  server: { name: "turnwire", version: "0" },
  protocol: 1,
  server_time: Date.now(),
  heartbeat_s: 20,
  features: [],
  limits: { frame_bytes: 1_048_576 },
  ...about,
});

/** An empty conversation, as a snapshot of it and the answer before. */
export const opened = (ref: string, id: string, epoch = "e1", seq = 0): ServerMessage[] => [
  {
    type: "conversation.opened",
    ref,
    conversation_id: id,
    epoch,
    seq,
    verdict: "snapshot",
    created: true,
    role: "owner",
    members: [],
    present: [],
  },
  { type: "conversation.snapshot", conversation_id: id, epoch, seq, messages: [], active: [] },
];

/** Answers the usual commands of all sockets to come. `first` is asked before, and may answer or not. */
export function serve(first: (command: Command, socket: FakeSocket) => Answer | null = () => null): void {
  FakeSocket.born = (socket) => {
    socket.hears = (command) => {
      const answer = first(command, socket);
      const usual = answer === null ? usualAnswer(command) : answer;
      if (usual) queueMicrotask(() => socket.say(...[usual].flat()));
    };
    queueMicrotask(() => socket.open());
  };
}

function usualAnswer(command: Command): Answer {
  const ref = command.id as string;
  if (command.type === "hello") {
    const again = command.resume?.map((entry, index) =>
      live(`resume.${index}`, entry.conversation_id as string, entry.since),
    );
    return [welcome(), ...(again ?? [])];
  }
  if (command.type === "ping") return { type: "pong", server_time: Date.now() };
  if (command.type === "conversation.open") return opened(ref, command.conversation_id);
  if (command.type === "request.presented") return undefined;
  if (command.type === "request.create")
    return { type: "ack", ref, request_id: command.request_id, state: "preparing", duplicate: false };
  if (command.type === "request.status") {
    const { request_id } = command;
    return {
      type: "request.state",
      ref,
      request_id,
      state: "streaming",
      conversation_id: "c1",
      run: 1,
      last_seq: 0,
      created_at: 0,
    };
  }
  const outcome = command.type === "request.cancel" ? "cancelling" : undefined;
  return { type: "ack", ref, outcome };
}

const live = (ref: string, id: string, since?: { epoch: string; seq: number } | null): ServerMessage => ({
  ...(opened(ref, id)[0] as Extract<ServerMessage, { type: "conversation.opened" }>),
  epoch: since?.epoch ?? "e1",
  seq: since?.seq ?? 0,
  verdict: "live",
});

/** Events of one turn in the order of a log, each with the next seq. */
export function script(conversation_id: string, request_id: string, seq = 0) {
  const head = () => {
    seq += 1;
    return { conversation_id, request_id, seq, ts: 1000 + seq };
  };
  const ids = { request_id, created_at: 1000, ordinal: 1 };
  const text = (words: string) => [{ kind: "text" as const, text: words }];
  return {
    created: (words = "Hi", author = "ann"): ServerMessage => ({
      type: "message.created",
      ...head(),
      message: { message_id: `u-${request_id}`, role: "user", author, parts: text(words), status: "complete", ...ids },
      answer_id: `a-${request_id}`,
    }),
    started: (): ServerMessage => ({ type: "message.started", ...head(), message_id: `a-${request_id}`, run: 1 }),
    delta: (offset: number, words: string, part = 0): ServerMessage => ({
      type: "output_text.delta",
      ...head(),
      part,
      offset,
      text: words,
    }),
    event: (type: string, fields: object): ServerMessage => ({ type, ...head(), ...fields }) as ServerMessage,
    completed: (words: string): ServerMessage => ({
      type: "message.completed",
      ...head(),
      terminal: true,
      finish_reason: "stop",
      message: answer(request_id, words),
    }),
  };
}

export const answer = (request_id: string, words: string, status: Message["status"] = "complete"): Message => ({
  message_id: `a-${request_id}`,
  request_id,
  role: "assistant",
  parts: [{ kind: "text", text: words }],
  status,
  created_at: 1002,
  parent_id: `u-${request_id}`,
  ordinal: 1,
});
