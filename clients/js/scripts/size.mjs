// What each entry costs a page: the built files, minified and gzipped, with all that is loaded at once. What is loaded
// later, and what the core has anyway, counts by itself. `--list` shows what is in them.
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { ENTRIES, OPTIONS } from "./build.mjs";

const LIMITS = { index: 7000, react: 2000, msgpack: 5000, "ai-sdk": 3000, "assistant-ui": 3000 };

const { outputFiles, metafile } = await build({
  ...OPTIONS,
  absWorkingDir: fileURLToPath(new URL("..", import.meta.url)),
  entryPoints: ENTRIES.map((name) => `src/${name}.ts`),
  outdir: "dist",
  write: false,
  metafile: true,
  minify: true,
});
const contents = new Map(outputFiles.map((one) => [one.path.slice(one.path.lastIndexOf("/dist/") + 1), one.contents]));

/** A file and all that it loads at once. */
function closure(file, seen = new Set()) {
  seen.add(file);
  for (const { path, kind } of metafile.outputs[file].imports)
    if (kind === "import-statement" && contents.has(path) && !seen.has(path)) closure(path, seen);
  return seen;
}
const weigh = (files) => gzipSync(Buffer.concat([...files].map((file) => contents.get(file))), { level: 9 }).length;

const core = closure("dist/index.js");
let isOver = false;
for (const [name, limit] of Object.entries(LIMITS)) {
  const files = [...closure(`dist/${name}.js`)].filter((file) => name === "index" || !core.has(file));
  const bytes = weigh(files);
  isOver ||= bytes > limit;
  console.log(`${name.padEnd(14)} ${String(bytes).padStart(6)} of ${limit} bytes${bytes > limit ? "  TOO LARGE" : ""}`);
  if (process.argv.includes("--list"))
    for (const file of files)
      for (const [input, { bytesInOutput }] of Object.entries(metafile.outputs[file].inputs))
        console.log(`  ${input.padEnd(24)} ${bytesInOutput}`);
}
const lazy = [...contents.keys()].filter((file) => !ENTRIES.some((name) => closure(`dist/${name}.js`).has(file)));
for (const file of lazy) console.log(`later          ${String(weigh([file])).padStart(6)} bytes  ${file}`);
process.exit(isOver ? 1 : 0);
