// One live request as a conversation knows it, and as it is shown. Pure; requests are never changed in place, so that
// whoever holds one may compare by identity. How events change it is in `partial`.

import type * as wire from "./protocol.js";
import type { Part } from "./types.js";

/** What came does not fit what is known; ask for a snapshot. The message says which rule, for tests. */
export class Misfit extends Error {}

export interface Live extends Omit<wire.ActiveRequest, "message"> {
  readonly parts: readonly Part[];
  readonly steered: readonly wire.Steered[];
  readonly prompt?: wire.PromptUsed;
  /** When the answer began. */
  readonly answered_at?: number;
}

export const fromActive = ({ message, ...active }: wire.ActiveRequest): Live => ({
  ...active,
  message_id: message?.message_id ?? active.message_id,
  answered_at: message?.created_at,
  parts: message?.parts ?? [],
  steered: message?.steered ?? [],
  prompt: message?.prompt,
});

/** The answer so far; undefined before it has started. */
export const answerOf = (
  { message_id, request_id, parts, steered, prompt, input, answered_at }: Live,
  status: wire.Message["status"] = "partial",
): wire.Message | undefined =>
  message_id === undefined
    ? undefined
    : {
        message_id,
        request_id,
        role: "assistant",
        parts: parts as Part[],
        status,
        created_at: answered_at ?? 0,
        parent_id: input.message_id,
        ordinal: input.ordinal,
        steered: steered.length ? (steered as wire.Steered[]) : undefined,
        prompt,
      };

export const toActive = (live: Live): wire.ActiveRequest => {
  const { parts, steered, prompt, answered_at, ...rest } = live;
  return { ...rest, message: answerOf(live) };
};

/** The text of the text parts, one after the other. */
export const textOfParts = (parts: readonly Part[]): string =>
  parts.map((part) => (part.kind === "text" ? part.text : "")).join("");
