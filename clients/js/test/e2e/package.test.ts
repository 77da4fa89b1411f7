// The package as it is published, in plain Node: built files, no bundler, no test runner's own module loader.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Stand, startStand, token } from "../support/server.js";

let stand: Stand;
beforeAll(async () => {
  stand = await startStand();
});
afterAll(() => stand.stop());

const PROGRAM = `
  import { connect } from "@turnwire/client";
  import { msgpack } from "@turnwire/client/msgpack";
  import { WebSocket } from "ws";
  const [url, token] = process.argv.slice(1);
  for (const codec of [undefined, msgpack]) {
    const client = connect(url, { WebSocket, token, ...(codec && { codec }) });
    const turn = client.conversation("package").send("Hello");
    let text = "";
    for await (const event of turn) if (event.type === "output_text.delta") text += event.text;
    console.log(turn.state, text);
    client.close();
  }
`;

test("the built package does a turn in plain Node, with both codecs", async () => {
  expect(existsSync("dist/index.js"), "run `npm run build` first").toBe(true);
  const args = ["--input-type=module", "--eval", PROGRAM, `ws://127.0.0.1:${stand.port}/v1`, token()];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 30_000 });
  expect(stdout).toBe("completed You said: Hello\ncompleted You said: Hello\n");
});
