import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const src = (name: string) => fileURLToPath(new URL(`src/${name}`, import.meta.url));

export default defineConfig({
  // The examples name the package as everybody does.
  resolve: {
    alias: [
      { find: /^@turnwire\/client$/, replacement: src("index.ts") },
      { find: /^@turnwire\/client\/(.*)$/, replacement: src("$1.ts") },
    ],
  },
  test: { include: ["test/**/*.test.{ts,tsx}"], testTimeout: 60_000, hookTimeout: 60_000, maxWorkers: 2 },
});
