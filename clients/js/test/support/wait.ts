// Waiting for what has to come, never for time to pass.
import type { Client, ClientState, Conversation } from "../../src/index.js";

export async function untilState(client: Client, ...states: ClientState[]): Promise<void> {
  if (states.includes(client.status.state)) return;
  await new Promise<void>((resolve) => {
    const stop = client.on("status", ({ state }) => {
      if (!states.includes(state)) return;
      stop();
      resolve();
    });
  });
}

/** Until something about the conversation is true. Follows it that long. */
export async function until(conversation: Conversation, isTrue: () => unknown): Promise<void> {
  if (isTrue()) return;
  await new Promise<void>((resolve) => {
    const stop = conversation.subscribe(() => {
      if (!isTrue()) return;
      stop();
      resolve();
    });
  });
}
