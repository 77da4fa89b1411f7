// A real server with the page in it, as a process that can be killed and started again; the model behind its first route
// says what a test wants, the demonstration model answers on the second one. Pages reach it over a network that can be
// cut. `TURNWIRE_PYTHON` names another interpreter than that of the source tree.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Cutter, startCutter } from "../../../js/test/support/cutter";
import { Provider } from "../../../js/test/support/provider";

const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
const PYTHON = process.env.TURNWIRE_PYTHON ?? join(ROOT, ".venv/bin/python");
const START_MS = 30_000;

export class Stand {
  readonly provider = new Provider();
  cutter!: Cutter;
  #port = 0;
  #folder = mkdtempSync(join(tmpdir(), "turnwire-page-"));
  #process: ChildProcess | undefined;

  get url(): string {
    return `http://127.0.0.1:${this.cutter.port}/`;
  }

  async start(): Promise<void> {
    if (!existsSync(PYTHON)) throw new Error(`no ${PYTHON}: set up the server, or name its Python in TURNWIRE_PYTHON`);
    await this.provider.start();
    this.#port = await freePort();
    this.cutter = await startCutter(this.#port);
    writeFileSync(
      this.#config,
      `[server]
host = "127.0.0.1"
port = ${this.#port}
data_dir = ${JSON.stringify(join(this.#folder, "data"))}
drain_s = 1
allowed_hosts = ["127.0.0.1:${this.cutter.port}", "127.0.0.1:${this.#port}"]
[storage]
lease_s = 1
[[deployments]]
name = "test"
model = "test-model"
base_url = "${this.provider.url}"
[[deployments]]
name = "demo"
kind = "demo"
[[routes]]
name = "default"
deployments = ["test"]
[[routes]]
name = "demo"
deployments = ["demo"]
[tenants.default]
`,
    );
    await this.up();
  }

  /** Start the process, on the data that is there. */
  async up(): Promise<void> {
    const args = ["-m", "turnwire_server", "serve", "--config", this.#config];
    const child = spawn(PYTHON, args, { stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (data) => {
        said = (said + data).slice(-10_000);
      });
    this.#process = child;
    const deadline = Date.now() + START_MS;
    while (!(await listens(this.#port))) {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`the server does not start: ${said}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async kill(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
  }

  /** A token for another user than the one of development. */
  token(user: string): string {
    const args = ["-m", "turnwire_server", "token", "--user", user, "--config", this.#config];
    return execFileSync(PYTHON, args, { encoding: "utf8" }).trim();
  }

  async stop(): Promise<void> {
    await this.kill();
    await this.cutter.stop();
    await this.provider.stop();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  get #config(): string {
    return join(this.#folder, "turnwire.toml");
  }
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
