// A value that views watch. Views re-render when it is replaced, so what is in it is never changed in place.

import { useSyncExternalStore } from "react";

export interface Watched<T> {
  readonly value: T;
  subscribe(listener: () => void): () => void;
}

export class Store<T> implements Watched<T> {
  #listeners = new Set<() => void>();

  constructor(public value: T) {}

  set(value: T): void {
    if (Object.is(value, this.value)) return;
    this.value = value;
    for (const listener of [...this.#listeners]) listener();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };
}

export const useValue = <T>(watched: Watched<T>): T => useSyncExternalStore(watched.subscribe, () => watched.value);
