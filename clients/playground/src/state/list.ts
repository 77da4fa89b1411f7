// The list of conversations. The server does not tell of changes in those that are not followed, so it is asked again
// after whatever may have changed something, and now and then while the page is seen.

import type { Client, wire } from "@turnwire/client";
import { Store } from "./store";

export interface ListView {
  items: readonly wire.ConversationItem[];
  next?: string;
  isLoaded: boolean;
}

const PAGE = 50;
const SOON_MS = 150;
const NOW_AND_THEN_MS = 20_000;

export class ConversationList extends Store<ListView> {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #older: wire.ConversationItem[] = [];

  constructor(private readonly client: Client) {
    super({ items: [], isLoaded: false });
    client.on("status", ({ state }) => state === "open" && this.refreshSoon());
    addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refreshSoon());
  }

  refreshSoon(delay = SOON_MS): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#refresh(), delay);
  }

  async more(): Promise<void> {
    const { items, next } = await this.client.list({ limit: PAGE, before: this.value.next });
    this.#older = [...this.#older, ...items];
    this.#show([], next);
  }

  drop(id: string): void {
    this.#older = this.#older.filter((one) => one.conversation_id !== id);
    this.set({ ...this.value, items: this.value.items.filter((one) => one.conversation_id !== id) });
  }

  async #refresh(): Promise<void> {
    if (this.client.status.state !== "open" || document.visibilityState === "hidden") return;
    try {
      const { items, next } = await this.client.list({ limit: PAGE });
      this.#show(items, this.#older.length ? this.value.next : next);
    } catch {} // it will be asked again
    this.refreshSoon(NOW_AND_THEN_MS);
  }

  #show(newest: wire.ConversationItem[], next?: string): void {
    const all = new Map<string, wire.ConversationItem>();
    for (const item of [...this.#older, ...(newest.length ? newest : this.value.items)])
      all.set(item.conversation_id, item);
    const items = [...all.values()].sort((a, b) => b.updated_at - a.updated_at);
    this.set({ items, next, isLoaded: true });
  }
}
