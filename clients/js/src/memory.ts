// What survives a reload of the page: who this client is, what it has seen of each conversation, which requests it has
// open and which it could not send yet. Lies in `sessionStorage`, so it is one tab's; whose, if there are two, is in `claim`.

import type { View } from "./fold.js";
import { newId } from "./id.js";
import type { RequestCreate, RequestRegenerate } from "./protocol.js";

export interface Store {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

export type Create = RequestCreate | RequestRegenerate;

interface Kept {
  /** The name of this client: claims of tools go with it through reconnects. */
  instance: string;
  /** Whose all this is. */
  user?: string;
  /** The conversations that are kept, the one last written at the end. */
  views: string[];
  /** Open requests and their conversations. */
  turns: Record<string, string>;
  /** Requests that had no `ack` yet. */
  unsent: { command: Create; conversationId: string; at: number; sent: boolean }[];
}

const MOST_VIEWS = 16;
/** A larger view is not kept: then a snapshot comes instead. */
const MOST_CHARS = 262_144;

export class Memory {
  _kept: Kept;
  /** Lets the lock on the name go. */
  _release: (() => void) | undefined;

  constructor(
    readonly _store: Store | undefined,
    readonly _key: string,
  ) {
    this._kept = { instance: newId(), views: [], turns: {}, unsent: [], ...this.#read("") };
  }

  /** Let another page have the name. */
  _leave(): void {
    this._release?.();
    this._release = undefined;
  }

  _view(id: string): View | undefined {
    return this._kept.views.includes(id) ? this.#read(` ${id}`) : undefined;
  }

  _keepView(id: string, view?: View): void {
    const text = JSON.stringify(view);
    const views = this._kept.views.filter((one) => one !== id);
    this._kept.views = views;
    if (text?.length <= MOST_CHARS) {
      views.push(id);
      this.#write(` ${id}`, text);
    } else this.#write(` ${id}`);
    if (views.length > MOST_VIEWS) this.#write(` ${views.shift()}`);
  }

  _save(): void {
    this.#write("", JSON.stringify(this._kept));
  }

  /** Everything but the name of this client. */
  _forget(): void {
    for (const id of this._kept.views) this.#write(` ${id}`);
    this._kept = { instance: this._kept.instance, views: [], turns: {}, unsent: [] };
    this._save();
  }

  // A full or forbidden store is no reason to fail: a reload then knows less.
  #write(name: string, text?: string): void {
    try {
      this._store?.removeItem(this._key + name);
      if (text) this._store?.setItem(this._key + name, text);
    } catch {}
  }

  // biome-ignore lint/suspicious/noExplicitAny: whatever was written
  #read(name: string): any {
    try {
      return JSON.parse(this._store?.getItem(this._key + name) as string) ?? undefined;
    } catch {}
  }
}

/** This tab's store; none on a server, and where pages may not keep anything. */
export const sessionStore = (): Store | undefined => {
  try {
    return globalThis.sessionStorage;
  } catch {}
};
