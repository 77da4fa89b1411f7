// The files of `protocol/vectors`, which every implementation of the protocol is tested with.
import { readFileSync } from "node:fs";

// biome-ignore lint/suspicious/noExplicitAny: a vector is any JSON
export function vectors(name: string): any {
  return JSON.parse(readFileSync(new URL(`../../../../protocol/vectors/${name}.json`, import.meta.url), "utf8"));
}
