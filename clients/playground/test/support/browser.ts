// A real browser, and pages that are watched: an error on the console, a broken policy or a request to somewhere else
// fails the test that the page was opened in.
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { expect } from "vitest";
import { Stand } from "./stand";

const ARGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split(" ");
const SCREENSHOTS = fileURLToPath(new URL("../screenshots/", import.meta.url));
/** What a browser says by itself when a connection that a test has cut does not come about. */
const EXPECTED = /WebSocket connection to .* failed|net::ERR_/;

export class Lab {
  readonly stand = new Stand();
  readonly problems: string[] = [];
  #browser!: Browser;
  #contexts: BrowserContext[] = [];

  async start(): Promise<void> {
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    [this.#browser] = await Promise.all([chromium.launch({ executablePath, args: ARGS }), this.stand.start()]);
  }

  /** A browser of its own, as far as storage goes, with one page. */
  async open(path = "", options: BrowserContextOptions & { token?: string; until?: string } = {}): Promise<Page> {
    const { token, until = "open", ...about } = options;
    const context = await this.#browser.newContext({ viewport: { width: 1280, height: 800 }, ...about });
    this.#contexts.push(context);
    context.setDefaultTimeout(30_000);
    context.on("page", (page) => this.#watch(page));
    if (token)
      await context.addInitScript((value) => {
        // An empty page may keep nothing.
        if (location.protocol === "http:") sessionStorage.setItem("turnwire.token", value);
      }, JSON.stringify(token));
    const page = await context.newPage();
    await page.goto(this.stand.url + path);
    await page.waitForSelector(`.lamp.${until}`, { state: "attached" });
    return page;
  }

  /** After each test: nothing went wrong that the test did not ask for. */
  async clear(): Promise<void> {
    await Promise.all(this.#contexts.splice(0).map((context) => context.close()));
    this.stand.provider.scripts.length = 0;
    this.stand.cutter.up();
    expect(this.problems.splice(0)).toEqual([]);
  }

  async stop(): Promise<void> {
    await this.#browser?.close();
    await this.stand.stop();
  }

  #watch(page: Page): void {
    page.on("pageerror", (error) => this.problems.push(`error: ${error.message}`));
    page.on("console", (message) => {
      if (message.type() === "error" && !EXPECTED.test(message.text())) this.problems.push(message.text());
    });
    page.on("request", (request) => {
      const { origin, protocol } = new URL(request.url());
      if (protocol !== "data:" && !this.stand.url.startsWith(origin)) this.problems.push(`asks ${request.url()}`);
    });
  }
}

export async function say(page: Page, text: string): Promise<void> {
  await page.fill("#draft", text);
  await page.press("#draft", "Enter");
}

/** The text of an answer, without what the page puts around it. */
export const textOf = (page: Page, nth = 0): Promise<string> =>
  page
    .locator(".answer")
    .nth(nth)
    .locator(".markdown")
    .evaluateAll((parts) => parts.map((part) => part.textContent).join(""));

/** Until the answer has so much of this text. */
export async function untilText(page: Page, text: string, nth = 0): Promise<void> {
  await page.locator(".answer").nth(nth).locator(".markdown", { hasText: text }).first().waitFor();
}

export async function untilOver(page: Page, nth = 0): Promise<void> {
  await page.locator(".turn").nth(nth).locator('.answer[aria-busy="false"]').waitFor();
}

export async function screenshot(page: Page, name: string): Promise<void> {
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: `${SCREENSHOTS}${name}.png` });
}

export const hasSidewaysScroll = (page: Page): Promise<boolean> =>
  page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
