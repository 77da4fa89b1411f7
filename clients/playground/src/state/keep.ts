// What the page keeps in the browser: for this tab, or for good. Storage that is full or forbidden only costs comfort.

const read = (store: () => Storage, key: string): unknown => {
  try {
    return JSON.parse(store().getItem(`turnwire.${key}`) ?? "null");
  } catch {
    return null;
  }
};

const write = (store: () => Storage, key: string, value: unknown): void => {
  try {
    if (value === undefined) store().removeItem(`turnwire.${key}`);
    else store().setItem(`turnwire.${key}`, JSON.stringify(value));
  } catch {}
};

const session = () => sessionStorage;
const local = () => localStorage;

/** This tab's, until it is closed. */
export const tab = {
  get: <T>(key: string): T | null => read(session, key) as T | null,
  set: (key: string, value: unknown) => write(session, key, value),
};

/** This browser's. */
export const browser = {
  get: <T>(key: string): T | null => read(local, key) as T | null,
  set: (key: string, value: unknown) => write(local, key, value),
};
