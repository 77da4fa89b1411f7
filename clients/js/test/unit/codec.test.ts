// Both codecs by the protocol's vectors. What a vector wants refused message by message (numbers beyond 2^53, nesting)
// is the server's business: a client takes what the server sends. What no parser can read is refused here too.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { json, snake } from "../../src/json.js";
import { msgpack } from "../../src/msgpack.js";
import type { Command } from "../../src/protocol.js";
import type { Codec } from "../../src/types.js";
import { vectors } from "../support/vectors.js";

const buffer = (bytes: Uint8Array): ArrayBuffer => new Uint8Array(bytes).buffer;
const unhex = (hex: string) => buffer(Buffer.from(hex, "hex"));
const again = (codec: Codec, message: unknown) => {
  const frame = codec.encode(message as Command);
  return codec.decode(typeof frame === "string" ? frame : buffer(frame));
};

const all = [...vectors("commands").valid, ...vectors("events").valid] as {
  name: string;
  message: object;
  msgpack: string;
}[];

describe.each([json, msgpack])("$protocol", (codec) => {
  test.each(all)("$name", ({ message }) => {
    expect(again(codec, message)).toEqual([message]);
  });

  test("leaves out what is undefined", () => {
    expect(again(codec, { type: "ping", id: undefined })).toEqual([{ type: "ping" }]);
  });

  test("any JSON comes out as it went in", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue({ noUnicodeString: false })), (value) => {
        const plain = JSON.parse(JSON.stringify(value));
        expect(again(codec, plain)).toEqual([plain]);
      }),
      { numRuns: 300 },
    );
  });
});

test.each(all)("MessagePack of the server: $name", ({ message, msgpack: hex }) => {
  expect(msgpack.decode(unhex(hex))).toEqual([message]);
});

interface Frame {
  name: string;
  codec: "json" | "msgpack";
  text?: string;
  hex?: string;
  items: { message?: object; error?: { message: string; ref?: string } }[];
}
const unreadable = /^(not JSON|not MessagePack|expected a (text|binary) frame|a key that|a binary or extension)/;

describe("vectors/frames.json", () => {
  test.each(vectors("frames").cases as Frame[])("$name ($codec)", ({ codec: name, text, hex, items }) => {
    const codec = name === "json" ? json : msgpack;
    const read = () => codec.decode(text ?? unhex(hex as string));
    if (
      items.length === 1 &&
      unreadable.test(items[0]?.error?.message ?? "") &&
      isRefused(items[0]?.error?.message ?? "", text, name)
    )
      expect(read).toThrow();
    else if (items.every((item) => item.message || item.error?.message === "expected an object"))
      expect(read()).toEqual(items.flatMap(({ message }) => message ?? []));
  });
});

// The platform's JSON parser takes these, and no server sends them.
const isRefused = (error: string, text: string | undefined, name: string) =>
  !(name === "json" && error === "not JSON" && text && isJson(text));
const isJson = (text: string) => {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
};

test("options get the names of the wire, what is in them does not", () => {
  expect(snake({ onBusy: "steer", parentId: null, context: { camelCase: 1 } })).toEqual({
    on_busy: "steer",
    parent_id: null,
    context: { camelCase: 1 },
  });
});
