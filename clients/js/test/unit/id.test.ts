import { expect, test, vi } from "vitest";
import { newId } from "../../src/id.js";

test.each(["a secure page", "an insecure page"])("ids of %s are new, and what the protocol takes", (page) => {
  vi.stubGlobal("crypto", {
    getRandomValues: (bytes: Uint8Array) => globalThis.process.getBuiltinModule("node:crypto").getRandomValues(bytes),
    ...(page === "a secure page" && {
      randomUUID: () => globalThis.process.getBuiltinModule("node:crypto").randomUUID(),
    }),
  });
  const ids = new Set(Array.from({ length: 200 }, newId));
  vi.unstubAllGlobals();
  expect(ids.size).toBe(200);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f-]{32,36}$/);
});
