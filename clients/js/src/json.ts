// Frames in JSON: text frames with one message or an array of them. What is undefined is left out of what is sent.

import type { ServerMessage } from "./protocol.js";
import type { Codec } from "./types.js";

/** The messages of a decoded frame. What is no object is nobody's. */
export const messagesOf = (frame: unknown): ServerMessage[] =>
  [frame].flat().filter((one): one is ServerMessage => typeof one === "object" && one !== null && !Array.isArray(one));

export const json: Codec = {
  protocol: "turnwire.v1.json",
  encode: JSON.stringify,
  decode: (data) => messagesOf(JSON.parse(data as string)),
};

/** Options as the wire has them: `onBusy` becomes `on_busy`. Of the names alone; what is below is the application's. */
export const snake = (options: object) =>
  Object.fromEntries(
    Object.entries(options).map(([name, value]) => [name.replace(/[A-Z]/g, (big) => `_${big.toLowerCase()}`), value]),
  );
