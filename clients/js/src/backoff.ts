// How long to stay away after a failure.

export const BASE_MS = 500;
export const MOST_MS = 20_000;

/** Full jitter, so that many clients do not come back together. `random` gives [0, 1). */
export const backoff = (failures: number, random: () => number) =>
  random() * Math.min(MOST_MS, BASE_MS * 2 ** failures);
