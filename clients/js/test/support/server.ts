// The real server as a process, on a port and a folder that outlive it: it can be killed and started again.
// `TURNWIRE_PYTHON` names another interpreter than that of the source tree.
import { type ChildProcess, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";
import { type Client, type ConnectOptions, connect } from "../../src/index.js";
import { type Cutter, startCutter } from "./cutter.js";
import { Provider } from "./provider.js";

const SECRET = "a secret of the tests, long enough for HS256";
const START_MS = 30_000;

/** A token that the server believes. */
export function token(user = "ann", ttlS = 3600, tenant = "acme"): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, tenant, exp: Math.floor(Date.now() / 1000) + ttlS };
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
}

export class Stand {
  readonly provider = new Provider();
  cutter!: Cutter;
  port = 0;
  #folder = mkdtempSync(join(tmpdir(), "turnwire-js-"));
  #process: ChildProcess | undefined;
  #clients: Client[] = [];

  constructor(private readonly sections: Record<string, object> = {}) {}

  async start(): Promise<void> {
    await this.provider.start();
    this.port = await freePort();
    this.cutter = await startCutter(this.port);
    const settings: Record<string, Record<string, unknown>> = {
      server: {
        host: "127.0.0.1",
        port: this.port,
        data_dir: join(this.#folder, "data"),
        drain_s: 2,
        allowed_hosts: ["*"],
      },
      auth: { mode: "jwt", jwt_secret: SECRET, leeway_s: 0 },
      storage: { lease_s: 1 },
      limits: { commands_per_s: 10_000, errors_per_minute: 10_000, auth_grace_s: 0 },
      tenants: { default: {} },
    };
    for (const [name, section] of Object.entries(this.sections)) settings[name] = { ...settings[name], ...section };
    const lists = `[[deployments]]\nname = "test"\nmodel = "test-model"\nbase_url = "${this.provider.url}"\n
[[routes]]\nname = "default"\ndeployments = ["test"]\n`;
    const tables = Object.entries(settings).map(([name, section]) =>
      name === "tenants"
        ? "[tenants.default]\n"
        : `[${name}]\n${Object.entries(section)
            .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
            .join("")}`,
    );
    writeFileSync(join(this.#folder, "turnwire.toml"), [...tables, lists].join("\n"));
    await this.up();
  }

  /** Start the process, on the data that is there. */
  async up(): Promise<void> {
    const python =
      process.env.TURNWIRE_PYTHON ?? fileURLToPath(new URL("../../../../.venv/bin/python", import.meta.url));
    if (!existsSync(python)) throw new Error(`no ${python}: set up the server, or name its Python in TURNWIRE_PYTHON`);
    const args = ["-m", "turnwire_server", "serve", "--config", join(this.#folder, "turnwire.toml")];
    const child = spawn(python, args, { stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (data) => (said = (said + data).slice(-10_000)));
    this.#process = child;
    const deadline = Date.now() + START_MS;
    while (!(await listens(this.port))) {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`the server does not start: ${said}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill(signal);
    await gone;
  }

  /** A client whose connection can be cut. */
  client(options: ConnectOptions = {}): Client {
    const client = connect(`ws://127.0.0.1:${this.cutter.port}/v1`, {
      WebSocket,
      token: () => token(),
      storage: false,
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.close();
    await this.kill();
    await this.cutter.stop();
    await this.provider.stop();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** A server for one file of tests. */
export async function startStand(sections?: Record<string, object>): Promise<Stand> {
  const stand = new Stand(sections);
  await stand.start();
  return stand;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const listens = (port: number) =>
  fetch(`http://127.0.0.1:${port}/healthz`).then(
    (answer) => answer.ok,
    () => false,
  );
