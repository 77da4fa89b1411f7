// Builds the page into the server's package: files named by their content, and `index.html`, which names them. Nothing
// is loaded from elsewhere. `node scripts/build.mjs --watch` builds again after each change.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, context } from "esbuild";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const DIST = at("../../../server/turnwire_server/playground/dist");
/** All files together, compressed, in bytes. */
const MOST_BYTES = 150_000;

const common = { bundle: true, minify: true, write: false, target: "es2022", legalComments: "none", outdir: "/" };
const page = {
  ...common,
  entryPoints: [at("../src/main.tsx"), at("../src/styles/main.css")],
  format: "esm",
  splitting: true,
  chunkNames: "[name]-[hash]",
  jsx: "automatic",
  tsconfigRaw: {}, // its paths are for types
  define: { "process.env.NODE_ENV": '"production"' },
  outbase: at("../src"),
  entryNames: "[name]",
  // The client straight from its source, so that the page never runs another one; one React for both.
  alias: {
    "@turnwire/client": at("../../js/src/index.ts"),
    "@turnwire/client/react": at("../../js/src/react.ts"),
    react: at("../node_modules/react"),
    "react-dom": at("../node_modules/react-dom"),
  },
};
// Runs before the page is drawn, so it may not be a module.
const boot = { ...common, entryPoints: [at("../src/boot.ts")], format: "iife" };

function write(files) {
  rmSync(DIST, { recursive: true, force: true });
  mkdirSync(DIST, { recursive: true });
  let html = readFileSync(at("../index.html"), "utf8");
  let size = gzipSync(html).length;
  for (const { path, contents } of files) {
    const name = basename(path);
    const stem = basename(name, extname(name));
    const isEntry = html.includes(`"${name}"`);
    const hash = createHash("sha256").update(contents).digest("hex").slice(0, 10);
    const named = isEntry ? `${stem}-${hash}${extname(name)}` : name;
    if (isEntry) html = html.replace(`"${name}"`, `"/assets/${named}"`);
    writeFileSync(join(DIST, named), contents);
    size += gzipSync(contents).length;
  }
  writeFileSync(join(DIST, "index.html"), html);
  console.log(`playground: ${files.length + 1} files, ${(size / 1000).toFixed(1)} kB compressed`);
  if (size > MOST_BYTES) throw new Error(`the playground has ${size} bytes compressed, more than ${MOST_BYTES}`);
}

if (process.argv.includes("--watch")) {
  const again = { name: "again", setup: ({ onEnd }) => onEnd(() => everything()) };
  const everything = async () =>
    write((await Promise.all([build(page), build(boot)])).flatMap((done) => done.outputFiles));
  await (await context({ ...page, plugins: [again] })).watch();
} else write((await Promise.all([build(page), build(boot)])).flatMap((done) => done.outputFiles));
