// A duplicated tab gets a copy of what the first one keeps. A lock that only one page can hold tells the two apart: the copy
// takes a name of its own, and sends nothing that the first one is going to send.

import { newId } from "./id.js";
import type { Memory } from "./memory.js";

const LOCK_WAIT_MS = 300;

/** Resolves once the name is this page's alone. */
export async function claim(memory: Memory): Promise<void> {
  const locks = memory._store && globalThis.navigator?.locks;
  if (!locks || memory._release) return;
  const hold = (signal: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      const held = () =>
        new Promise<void>((release) => {
          memory._release = release;
          resolve();
        });
      locks.request(`${memory._key} ${memory._kept.instance}`, { signal }, held).catch(reject);
    });
  // A page that is reloaded may find its own lock not yet let go.
  const patience = new AbortController();
  setTimeout(() => patience.abort(), LOCK_WAIT_MS);
  await hold(patience.signal).catch(() => {
    memory._kept.instance = newId();
    memory._kept.unsent = [];
    memory._save();
  });
  if (!memory._release) await hold(new AbortController().signal);
}
