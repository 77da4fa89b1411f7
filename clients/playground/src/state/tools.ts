// Tools that this page runs for models. They are offered with each turn; the server checks arguments, and only one page
// of a user gets to run a call.

import type { Tool } from "@turnwire/client";
import { tab } from "./keep";

/** Hues of the accent, by name. */
export const COLOURS = { teal: 180, blue: 255, purple: 300, rose: 10, amber: 65, green: 145 } as const;
export type Colour = keyof typeof COLOURS;

export function setColour(colour: Colour): void {
  document.documentElement.style.setProperty("--hue", String(COLOURS[colour]));
  tab.set("colour", colour);
}

export function restoreColour(): void {
  const colour = tab.get<Colour>("colour");
  if (colour && colour in COLOURS) setColour(colour);
}

export const pageColour: Tool<{ colour: Colour }> = {
  name: "page_colour",
  description: "Gives the page that the user is looking at another accent colour.",
  parameters: {
    type: "object",
    properties: { colour: { type: "string", enum: Object.keys(COLOURS) } },
    required: ["colour"],
    additionalProperties: false,
  },
  idempotent: true,
  run({ colour }) {
    setColour(colour);
    return { colour };
  },
};

export const browserTime: Tool = {
  name: "browser_time",
  description: "Tells the local date, time and time zone of the user's browser.",
  parameters: { type: "object", properties: {}, additionalProperties: false },
  sideEffect: false,
  run() {
    const now = new Date();
    return { local: now.toLocaleString("en-GB"), zone: Intl.DateTimeFormat().resolvedOptions().timeZone };
  },
};
