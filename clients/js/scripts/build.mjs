// dist/: the entries as ES modules that share their chunks, with short names for what is only the package's own (`_name`),
// and their types. Not minified: that is for whoever bundles it.
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

export const ENTRIES = ["index", "react", "msgpack", "ai-sdk", "assistant-ui"];
export const OPTIONS = {
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  packages: "external",
  mangleProps: /^_[a-z]/,
};

export async function buildPackage() {
  const root = fileURLToPath(new URL("..", import.meta.url));
  rmSync(`${root}dist`, { recursive: true, force: true });
  await build({
    ...OPTIONS,
    absWorkingDir: root,
    entryPoints: ENTRIES.map((name) => `src/${name}.ts`),
    outdir: "dist",
    sourcemap: true,
    chunkNames: "chunks/[name]-[hash]",
  });
  execFileSync(`${root}node_modules/.bin/tsc`, ["-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildPackage();
