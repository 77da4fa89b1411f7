// What each entry costs a page: minified and gzipped, with all that it loads at once, without what the page has anyway
// (peers, and the core where an entry is used beside it). What is loaded later counts by itself. `--list` shows the files.
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const KB = 1000;
const LIMITS = { index: 7 * KB, react: 2 * KB, msgpack: 5 * KB, "ai-sdk": 3 * KB, "assistant-ui": 3 * KB };
const names = Object.keys(LIMITS);
const wanted = process.argv.slice(2).filter((word) => !word.startsWith("-"));
let failed = false;
for (const name of wanted.length ? wanted : names) {
  const { outputFiles, metafile } = await build({
    entryPoints: [`src/${name}.ts`],
    bundle: true,
    minify: true,
    splitting: true,
    format: "esm",
    target: "esnext",
    outdir: "out",
    write: false,
    metafile: true,
    mangleProps: /^_[a-z]/,
    packages: "external",
    ...(name === "index" ? {} : { external: ["./client.js"], packages: "external" }),
  });
  const [entry, { inputs }] = Object.entries(metafile.outputs).find(([, one]) => one.entryPoint);
  const atOnce = new Set([entry]);
  for (const one of atOnce)
    for (const { path, kind } of metafile.outputs[one].imports)
      if (kind === "import-statement" && metafile.outputs[path]) atOnce.add(path);
  const weigh = (files) => gzipSync(Buffer.concat(files.map((one) => one.contents)), { level: 9 }).length;
  const isAtOnce = ({ path }) => [...atOnce].some((one) => path.endsWith(one.slice(3)));
  const bytes = weigh(outputFiles.filter(isAtOnce));
  const later = outputFiles.filter((one) => !isAtOnce(one)).map((one) => weigh([one]));
  const over = bytes > LIMITS[name];
  failed ||= over;
  console.log(
    `${name.padEnd(14)} ${String(bytes).padStart(6)} of ${LIMITS[name]} bytes${later.length ? `, later ${later}` : ""}${over ? "  TOO LARGE" : ""}`,
  );
  if (process.argv.includes("--list"))
    for (const [file, { bytesInOutput }] of Object.entries(inputs).sort(
      (a, b) => b[1].bytesInOutput - a[1].bytesInOutput,
    ))
      console.log(`  ${file.padEnd(24)} ${bytesInOutput}`);
}
process.exit(failed ? 1 : 0);
