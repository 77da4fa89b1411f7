// By keyboard alone, with a screen reader, on a phone, in both themes.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { gate } from "../../../js/test/support/provider";
import { hasSidewaysScroll, Lab, say, screenshot, untilOver, untilText } from "../support/browser";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
const RICH =
  "## A head\n\n1. A list\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nlet x;\n```\n\n[a link](https://example.org)";

const lab = new Lab();
const { provider } = lab.stand;
beforeAll(() => lab.start());
afterEach(() => lab.clear());
afterAll(() => lab.stop());

const rich = async function* () {
  yield RICH;
};

/** What axe finds wrong, in a form that says where. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    // biome-ignore lint/suspicious/noExplicitAny: axe has put itself there
    const { violations } = await (globalThis as any).axe.run({ resultTypes: ["violations"] });
    return violations.flatMap(({ id, nodes }: { id: string; nodes: { html: string; failureSummary: string }[] }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 160)} ${failureSummary.split("\n")[1]}`),
    );
  });
}

it.each(["light", "dark"] as const)("axe finds nothing wrong, in %s", async (colorScheme) => {
  const page = await lab.open("", { colorScheme, reducedMotion: "reduce" });
  expect(await violations(page)).toEqual([]);
  await screenshot(page, `empty-${colorScheme}`);
  provider.scripts.push(rich);
  await say(page, "Everything there is");
  await untilOver(page);
  await page.keyboard.press("Alt+I");
  for (const tab of ["Turn", "Events", "Connection", "Shared"]) {
    await page.getByRole("tab", { name: tab }).click();
    expect(await violations(page), tab).toEqual([]);
    await screenshot(page, `inspector-${tab.toLowerCase()}-${colorScheme}`);
  }
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.getByRole("button", { name: /Approve a tool/ }).click();
  await page.getByText("Needs your approval").waitFor();
  expect(await violations(page), "approval").toEqual([]);
  await page.getByRole("button", { name: "Deny" }).click();
  await untilOver(page);
  await page.getByRole("button", { name: "Shortcuts and help" }).click();
  expect(await violations(page), "dialog").toEqual([]);
});

it("everything by keyboard: ask, stop, inspect, move about, delete", async () => {
  const held = gate();
  provider.scripts.push(async function* () {
    yield "Begun";
    await held.pass();
  });
  const page = await lab.open();
  const { keyboard } = page;
  const focused = () =>
    page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent);
  await keyboard.type("First by keys");
  await keyboard.press("Enter");
  await untilText(page, "Begun");
  await keyboard.press("Escape");
  await page.getByText("Stopped", { exact: true }).waitFor();
  held.open();
  await keyboard.press("Alt+N");
  await page.getByText("Talk to a model").waitFor();
  await keyboard.type("Second by keys");
  await keyboard.press("Enter");
  await untilOver(page);

  await keyboard.press("Alt+I");
  await expect.poll(focused).toBe("Turn");
  await keyboard.press("ArrowRight");
  expect(await focused()).toBe("Events");
  expect(await page.getByRole("tab", { name: "Events" }).getAttribute("aria-selected")).toBe("true");
  await keyboard.press("Alt+I");
  await page.getByRole("complementary").waitFor({ state: "detached" });

  // From the top: past the link to the message and the button for a new one lies the list.
  await page.locator(".skip").focus();
  for (let presses = 0; presses < 10 && !(await focused())?.startsWith("Second by keys"); presses++)
    await keyboard.press("Tab");
  expect(await focused()).toMatch(/^Second by keys/);
  await keyboard.press("ArrowDown");
  expect(await focused()).toMatch(/^First by keys/);
  await keyboard.press("Enter");
  await page.getByRole("heading", { name: "First by keys" }).waitFor();
  await page.locator(".item.current .open").focus();
  await keyboard.press("Delete");
  await page.getByRole("dialog").waitFor();
  await keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  expect(await focused()).toMatch(/^First by keys/);
  await keyboard.press("Delete");
  await page.getByRole("dialog").waitFor();
  while ((await focused()) !== "Delete") await keyboard.press("Tab");
  await keyboard.press("Enter");
  await page.locator(".item", { hasText: "First by keys" }).waitFor({ state: "detached" });
  // In the message it would be a question mark.
  await page.locator(".item .open").first().focus();
  await keyboard.press("?");
  await page.getByRole("dialog", { name: "Shortcuts and help" }).waitFor();
});

it("a phone has all of it, without scrolling sideways", async () => {
  const page = await lab.open("", PHONE);
  expect(await hasSidewaysScroll(page)).toBe(false);
  await screenshot(page, "phone-empty");
  provider.scripts.push(rich);
  await say(page, "On the phone");
  await untilOver(page);
  expect(await hasSidewaysScroll(page)).toBe(false);
  expect(await violations(page)).toEqual([]);
  await screenshot(page, "phone-thread");
  await page.getByRole("button", { name: "Open the inspector" }).click();
  for (const tab of ["Events", "Connection", "Shared", "Turn"]) {
    await page.getByRole("tab", { name: tab }).click();
    expect(await hasSidewaysScroll(page), tab).toBe(false);
  }
  expect(await violations(page), "inspector").toEqual([]);
  await screenshot(page, "phone-inspector");
  await page.getByRole("complementary").getByRole("button", { name: "Close the inspector" }).click();
  await page.getByRole("button", { name: "Conversations" }).click();
  await page.locator(".sidebar.open").waitFor();
  await screenshot(page, "phone-list");
  expect(await violations(page), "list").toEqual([]);
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.locator(".sidebar.open").waitFor({ state: "detached" });
});

it.each([768, 1440])("at %i pixels nothing lies beside the page", async (width) => {
  provider.scripts.push(rich);
  const page = await lab.open("", { viewport: { width, height: 900 } });
  await say(page, "How wide?");
  await untilOver(page);
  await page.keyboard.press("Alt+I");
  await page.getByRole("complementary").waitFor();
  expect(await hasSidewaysScroll(page)).toBe(false);
  await screenshot(page, `width-${width}`);
});

it("the theme that was chosen stays", async () => {
  const page = await lab.open("", { colorScheme: "light" });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).colorScheme);
  await page.getByRole("button", { name: "Dark", exact: true }).click();
  expect(await ground()).toBe("dark");
  await page.reload();
  await page.waitForSelector(".lamp.open", { state: "attached" });
  expect(await ground()).toBe("dark");
  await page.getByRole("button", { name: "Theme of the system" }).click();
  expect(await ground()).toBe("light dark");
});
