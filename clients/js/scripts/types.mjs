// Writes src/protocol.ts from protocol/schema: the types of everything on the wire. `--check` fails when it is stale.
import { readFile, writeFile } from "node:fs/promises";
import { compile } from "json-schema-to-typescript";

const SCHEMA = new URL("../../../protocol/schema/", import.meta.url);
const TARGET = new URL("../src/protocol.ts", import.meta.url);
const HEAD =
  "// Made from protocol/schema by `npm run types`; a check fails when it is stale. Do not edit.\n/* biome-ignore-all format: generated */\n";

const DROPPED = new Set(["title", "pattern", "minItems", "maxItems"]);

async function definitions(name) {
  const { $defs, oneOf } = JSON.parse(await readFile(new URL(`${name}.schema.json`, SCHEMA), "utf8"));
  return { $defs, oneOf };
}

/** Types say what there is, not how long it may be: constraints would become names and tuples. */
function tidy(node) {
  if (Array.isArray(node)) return node.map(tidy);
  if (node === null || typeof node !== "object") return node;
  // Only where they are constraints: a property may be called so too, and then it is an object.
  const kept = Object.entries(node).filter(([key, value]) => !DROPPED.has(key) || typeof value === "object");
  return Object.fromEntries(kept.map(([key, value]) => [key, tidy(value)]));
}

/** "Exactly one of these is required" has no good words in TypeScript. */
function withoutChoices(definitions) {
  return Object.fromEntries(
    Object.entries(definitions).map(([name, one]) => {
      const { oneOf, ...rest } = one;
      return [name, one.properties ? rest : one];
    }),
  );
}

async function types() {
  const commands = await definitions("commands");
  const events = await definitions("events");
  const twice = Object.keys(commands.$defs).filter((name) => name in events.$defs);
  for (const name of twice)
    if (JSON.stringify(commands.$defs[name]) !== JSON.stringify(events.$defs[name]))
      throw new Error(`${name} means two things`);
  const schema = {
    $defs: tidy({
      ...withoutChoices(commands.$defs),
      ...events.$defs,
      Command: { oneOf: commands.oneOf },
      ServerMessage: { oneOf: events.oneOf },
    }),
    title: "Protocol",
    type: "object",
    properties: { command: { $ref: "#/$defs/Command" }, event: { $ref: "#/$defs/ServerMessage" } },
  };
  const text = await compile(schema, "Protocol", { bannerComment: "", additionalProperties: false });
  return HEAD + text;
}

const made = await types();
if (process.argv.includes("--check")) {
  const committed = await readFile(TARGET, "utf8").catch(() => "");
  if (committed !== made) {
    console.error("src/protocol.ts is stale: run `npm run types` in clients/js");
    process.exit(1);
  }
} else await writeFile(TARGET, made);
