// Frames in MessagePack, as much of it as the protocol has: string keys, no binary values, no extension types. Loaded
// when asked for: `connect(url, { codec: () => import("@turnwire/client/msgpack").then((m) => m.msgpack) })`.

import { messagesOf } from "./json.js";
import type { Codec } from "./types.js";

const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true });
/** Deeper than anything the protocol allows: what nests deeper is meant to harm. */
const DEEPEST = 64;

class Writer {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;

  /** Make room for `size` bytes and give their place. The view may be another one afterwards. */
  #room(size: number): number {
    const at = this.#at;
    this.#at += size;
    if (this.#at > this.#bytes.length) {
      const larger = new Uint8Array(this.#at * 2);
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }

  #byte(value: number): void {
    const at = this.#room(1);
    this.#bytes[at] = value;
  }

  /** A first byte with the size in it, or one of `wide` with the size behind it in 8, 16 or 32 bits. */
  #head(size: number, short: number, most: number, wide: [number | undefined, number, number]): void {
    if (size <= most) this.#byte(short | size);
    else if (size < 0x100 && wide[0] !== undefined) {
      this.#byte(wide[0]);
      this.#byte(size);
    } else if (size < 0x10000) {
      this.#byte(wide[1]);
      const at = this.#room(2);
      this.#view.setUint16(at, size);
    } else {
      this.#byte(wide[2]);
      const at = this.#room(4);
      this.#view.setUint32(at, size);
    }
  }

  write(value: unknown): void {
    if (value === null || value === undefined) this.#byte(0xc0);
    else if (typeof value === "boolean") this.#byte(value ? 0xc3 : 0xc2);
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "string") {
      const bytes = utf8.encode(value);
      this.#head(bytes.length, 0xa0, 31, [0xd9, 0xda, 0xdb]);
      const at = this.#room(bytes.length);
      this.#bytes.set(bytes, at);
    } else if (Array.isArray(value)) {
      this.#head(value.length, 0x90, 15, [undefined, 0xdc, 0xdd]);
      for (const one of value) this.write(one);
    } else {
      // As JSON has it: what is undefined is not there.
      const entries = Object.entries(value).filter((entry) => entry[1] !== undefined);
      this.#head(entries.length, 0x80, 15, [undefined, 0xde, 0xdf]);
      for (const entry of entries) for (const one of entry) this.write(one);
    }
  }

  #number(value: number): void {
    if (!Number.isFinite(value))
      this.write(null); // as JSON has it
    else if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      this.#byte(0xcb);
      const at = this.#room(8);
      this.#view.setFloat64(at, value);
    } else if (value >= 0 && value < 0x100000000) this.#head(value, 0, 0x7f, [0xcc, 0xcd, 0xce]);
    else if (value < 0 && value >= -32) this.#byte(value & 0xff);
    else {
      this.#byte(0xd3);
      const at = this.#room(8);
      this.#view.setBigInt64(at, BigInt(value));
    }
  }

  done(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#at);
  }
}

class Reader {
  #at = 0;
  #bytes: Uint8Array;
  #view: DataView;

  constructor(data: ArrayBuffer) {
    this.#bytes = new Uint8Array(data);
    this.#view = new DataView(data);
  }

  /** The place of the next `size` bytes. Reading beyond the end throws by itself. */
  #skip(size: number): number {
    const at = this.#at;
    this.#at += size;
    return at;
  }

  #size(width: number): number {
    const at = this.#skip(width);
    return width === 1 ? this.#view.getUint8(at) : width === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  read(depth = 0): unknown {
    if (depth > DEEPEST) throw new Error("nested too deep");
    const first = this.#view.getUint8(this.#skip(1));
    if (first < 0x80) return first;
    if (first < 0x90) return this.#map(first & 15, depth);
    if (first < 0xa0) return this.#array(first & 15, depth);
    if (first < 0xc0) return this.#string(first & 31);
    if (first >= 0xe0) return first - 0x100;
    const view = this.#view;
    switch (first) {
      case 0xc0:
        return null;
      case 0xc2:
      case 0xc3:
        return first === 0xc3;
      case 0xca:
        return view.getFloat32(this.#skip(4));
      case 0xcb:
        return view.getFloat64(this.#skip(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#size(1 << (first - 0xcc));
      case 0xcf:
        return Number(view.getBigUint64(this.#skip(8)));
      case 0xd0:
        return view.getInt8(this.#skip(1));
      case 0xd1:
        return view.getInt16(this.#skip(2));
      case 0xd2:
        return view.getInt32(this.#skip(4));
      case 0xd3:
        return Number(view.getBigInt64(this.#skip(8)));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#string(this.#size(1 << (first - 0xd9)));
      case 0xdc:
      case 0xdd:
        return this.#array(this.#size(2 << (first - 0xdc)), depth);
      case 0xde:
      case 0xdf:
        return this.#map(this.#size(2 << (first - 0xde)), depth);
      default:
        throw new Error(`0x${first.toString(16)} does not belong into a frame`);
    }
  }

  get isDone(): boolean {
    return this.#at === this.#bytes.length;
  }

  #string(size: number): string {
    const at = this.#skip(size);
    if (this.#at > this.#bytes.length) throw new Error("broken off");
    return text.decode(this.#bytes.subarray(at, this.#at));
  }

  // Grown one by one: a size that is claimed is not believed.
  #array(size: number, depth: number): unknown[] {
    const array = [];
    for (let n = 0; n < size; n++) array.push(this.read(depth + 1));
    return array;
  }

  #map(size: number, depth: number): object {
    const entries: [string, unknown][] = [];
    for (let n = 0; n < size; n++) {
      const key = this.read(depth + 1);
      if (typeof key !== "string") throw new Error("a key that is not a string");
      entries.push([key, this.read(depth + 1)]);
    }
    return Object.fromEntries(entries);
  }
}

export const msgpack: Codec = {
  protocol: "turnwire.v1.msgpack",
  encode(message) {
    const writer = new Writer();
    writer.write(message);
    return writer.done();
  },
  decode(data) {
    if (typeof data === "string") throw new Error("expected a binary frame");
    const reader = new Reader(data);
    const frame = reader.read();
    if (!reader.isDone) throw new Error("something after the frame");
    return messagesOf(frame);
  },
};
