// One conversation as the page shows it: the client's view of it, notes on its turns, and the branch that was chosen.

import type { Client, Conversation, ConversationView, LogEvent, SendOptions, Turn, wire } from "@turnwire/client";
import { type ShownTurn, Tree } from "./branches";
import { tab } from "./keep";
import { type Note, noted } from "./notes";
import type { Watched } from "./store";

export interface RoomView {
  view: ConversationView;
  /** Of the chosen branch, without those that wait. */
  turns: readonly ShownTurn[];
  waiting: readonly ShownTurn[];
  /** The one that is being answered on this branch. */
  running?: ShownTurn;
  notes: ReadonlyMap<string, Note>;
  leaf?: string;
}

interface Kept {
  notes: [string, Note][];
  messages: wire.Message[];
}

const MOST_NOTES = 80;
const MOST_MESSAGES = 200;
const MOST_CHARS = 400_000;

export class Room implements Watched<RoomView> {
  readonly conversation: Conversation;
  #tree = new Tree();
  #notes: ReadonlyMap<string, Note>;
  #leaf: string | undefined;
  #value: RoomView | undefined;
  #listeners = new Set<() => void>();
  #watchers = new Set<(event: LogEvent) => void>();

  constructor(
    client: Client,
    readonly id: string,
  ) {
    this.conversation = client.conversation(id);
    const kept = tab.get<Kept>(`room ${id}`);
    this.#notes = new Map(kept?.notes);
    this.#tree.add(kept?.messages ?? []);
    this.conversation.onEvent((event) => {
      this.#notes = noted(this.#notes, event);
      for (const watcher of this.#watchers) watcher(event);
    });
  }

  get value(): RoomView {
    this.#value ??= this.#make();
    return this.#value;
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    const stop = this.conversation.subscribe(() => {
      this.#value = undefined;
      listener();
    });
    return () => {
      this.#listeners.delete(listener);
      stop();
    };
  };

  onEvent(watcher: (event: LogEvent) => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  send(text: string, options: SendOptions = {}): Turn {
    const parentId = options.parentId === undefined ? this.#parent(options) : options.parentId;
    this.#leaf = undefined;
    return this.conversation.send(text, { ...options, parentId });
  }

  regenerate(messageId: string, options?: SendOptions): Turn {
    this.#leaf = undefined;
    return this.conversation.regenerate(messageId, options);
  }

  turn(id: string): Turn {
    return this.conversation.turn(id);
  }

  /** Show the branch that this input begins; undefined for the newest. */
  async choose(inputId: string | undefined): Promise<void> {
    this.#leaf = inputId && this.#tree.leafOf(inputId);
    this.#changed();
    if (!inputId) return;
    const { items } = await this.conversation.history({ leaf: this.#leaf, limit: 100 });
    this.#tree.add(items);
    this.#leaf = this.#tree.leafOf(inputId);
    this.#changed();
  }

  /** For a reload of the page. */
  keep(): void {
    const notes = [...this.#notes].slice(-MOST_NOTES);
    const kept = { notes, messages: this.#tree.all().slice(-MOST_MESSAGES) };
    tab.set(`room ${this.id}`, JSON.stringify(kept).length < MOST_CHARS ? kept : { notes, messages: [] });
  }

  forget(): void {
    tab.set(`room ${this.id}`, undefined);
  }

  /** Below what is said next, when another branch than the newest is shown. */
  #parent({ onBusy }: SendOptions): string | undefined {
    const { leaf, turns } = this.value;
    if (!leaf || onBusy === "steer") return undefined;
    return turns.at(-1)?.answer?.message_id ?? turns.at(-1)?.input.message_id;
  }

  #changed(): void {
    this.#value = undefined;
    for (const listener of [...this.#listeners]) listener();
  }

  #make(): RoomView {
    const { view } = this.conversation;
    this.#tree.take(view);
    const all = this.#tree.turns(view, this.#leaf);
    const isWaiting = ({ active, answer }: ShownTurn) => active?.state === "queued" && !answer?.parts.length;
    const turns = all.filter((turn) => !isWaiting(turn));
    return {
      view,
      turns,
      waiting: all.filter(isWaiting),
      running: turns.findLast(({ active }) => active),
      notes: this.#notes,
      leaf: this.#leaf,
    };
  }
}
