import { defineConfig } from "vitest/config";

export default defineConfig({
  // One browser at a time: two cores are shared with the server.
  test: { include: ["test/**/*.test.ts"], testTimeout: 60_000, hookTimeout: 60_000, fileParallelism: false },
});
