// A clock that the test holds. Code that is loaded when it is first needed is waited for: that takes no time of this clock.
import { vi } from "vitest";

/** Let so much time pass, and what is under way get as far as it can. */
export async function pass(ms = 0): Promise<void> {
  await vi.dynamicImportSettled();
  await vi.advanceTimersByTimeAsync(ms);
}
