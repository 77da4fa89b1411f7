// Numbers and times as people read them.

export const seconds = (ms: number): string =>
  ms < 1000
    ? `${Math.max(0, Math.round(ms))} ms`
    : ms < 9_950
      ? `${(ms / 1000).toFixed(1)} s`
      : ms < 120_000
        ? `${Math.round(ms / 1000)} s`
        : `${Math.round(ms / 60_000)} min`;

export const count = (value: number): string => value.toLocaleString("en");
export const plural = (value: number, word: string): string => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

/** As the server says it, without zeros that tell nothing. */
export const dollars = (usd: string): string =>
  `$${usd.includes(".") ? usd.replace(/0+$/, "").replace(/\.$/, "") : usd}`;

export const clock = (at: number): string =>
  new Date(at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

export const exactly = (at: number): string => {
  const date = new Date(at);
  return `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
};

export const bytes = (value: number): string => (value < 1000 ? `${value} B` : `${(value / 1000).toFixed(1)} kB`);

/** How long ago, in the space of a list. */
export const ago = (at: number, now: number): string => {
  const minutes = Math.floor((now - at) / 60_000);
  if (minutes < 1) return "now";
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h`;
  return new Date(at).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
};

export const pretty = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

export const words = (name: string): string => name.replaceAll("_", " ");
