// What people do to pages and networks to servers: the answer comes back whole, once.
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { type Gate, gate } from "../../../js/test/support/provider";
import { Lab, say, screenshot, textOf, untilOver, untilText } from "../support/browser";

const lab = new Lab();
const { provider } = lab.stand;
beforeAll(() => lab.start());
afterEach(() => lab.clear());
afterAll(() => lab.stop());

const BEGIN = "The first half of an answer";
const WHOLE = `${BEGIN}, and the second half of it.`;

/** An answer that stops in the middle until the gate is open. */
function inTwoHalves(): Gate {
  const held = gate();
  provider.scripts.push(async function* () {
    for (const word of BEGIN.split(/(?= )/)) yield word;
    await held.pass();
    for (const word of WHOLE.slice(BEGIN.length).split(/(?= )/)) yield word;
  });
  return held;
}

async function isWhole(page: Page): Promise<void> {
  await untilText(page, WHOLE);
  await untilOver(page);
  expect(await textOf(page)).toBe(WHOLE);
  expect(await page.locator(".turn").count()).toBe(1);
}

it("a reload in mid-answer gives the text as if nothing had been", async () => {
  const held = inTwoHalves();
  const asked = provider.asked.length;
  const page = await lab.open();
  await say(page, "Tell me");
  await untilText(page, BEGIN);
  await page.reload();
  await untilText(page, BEGIN);
  held.open();
  await isWhole(page);
  await page.reload();
  await isWhole(page);
  expect(provider.asked.length).toBe(asked + 1);
});

it("a page that is gone when the answer ends finds it whole", async () => {
  const held = inTwoHalves();
  const page = await lab.open();
  await say(page, "Tell me");
  await untilText(page, BEGIN);
  const url = page.url();
  await page.goto("about:blank");
  held.open();
  await page.goto(url);
  await isWhole(page);
});

it("a second tab follows live, and stops what the first one began", async () => {
  const held = inTwoHalves();
  const first = await lab.open();
  await say(first, "Tell both");
  await untilText(first, BEGIN);
  const second = await first.context().newPage();
  await second.goto(first.url());
  await untilText(second, BEGIN);
  held.open();
  await Promise.all([isWhole(first), isWhole(second)]);
  const again = inTwoHalves();
  await say(first, "Once more");
  await untilText(second, BEGIN, 1);
  await second.getByRole("button", { name: "Stop the answer (Esc)" }).click();
  await Promise.all([first, second].map((page) => page.getByText("Stopped", { exact: true }).waitFor()));
  again.open();
});

it("a duplicated tab is a client of its own", async () => {
  const held = inTwoHalves();
  const page = await lab.open();
  await say(page, "Tell me");
  await untilText(page, BEGIN);
  // As a browser duplicates tabs: with a copy of what the first one keeps.
  const [copy] = await Promise.all([page.waitForEvent("popup"), page.evaluate(() => void open(location.href))]);
  await untilText(copy, BEGIN);
  held.open();
  await Promise.all([isWhole(page), isWhole(copy)]);
  const instances = await Promise.all([page, copy].map((each) => each.evaluate(instanceOf)));
  expect(instances[0]).toBeTruthy();
  expect(instances[1]).toBeTruthy();
  expect(instances[0]).not.toBe(instances[1]);
});

/** The name under which the client of a page claims tools; it keeps it for a reload. */
function instanceOf(): string | undefined {
  for (const [key, value] of Object.entries(sessionStorage))
    if (key.startsWith("turnwire ws")) {
      const { instance } = JSON.parse(value);
      if (instance) return instance;
    }
  return undefined;
}

it("offline and back: what was written meanwhile is sent, what was missed comes", async () => {
  const held = inTwoHalves();
  const page = await lab.open();
  await say(page, "Tell me");
  await untilText(page, BEGIN);
  await page.context().setOffline(true);
  lab.stand.cutter.down();
  await page.getByText("Offline.").waitFor();
  await screenshot(page, "offline");
  held.open();
  await say(page, "Said offline");
  await page.getByText("Sent when connected").waitFor();
  lab.stand.cutter.up();
  await page.context().setOffline(false);
  await untilText(page, WHOLE);
  await untilText(page, "You said: Said offline", 1);
  await untilOver(page, 1);
  expect(await textOf(page)).toBe(WHOLE);
  expect(await page.locator(".banner").count()).toBe(0);
});

it("the switches of the inspector break the connection, and it comes back where it was", async () => {
  const held = inTwoHalves();
  const page = await lab.open();
  await say(page, "Tell me");
  await untilText(page, BEGIN);
  await page.keyboard.press("Alt+I");
  await page.getByRole("tab", { name: "Connection" }).click();
  const now = (state: string) => page.locator(".states .now", { hasText: state }).waitFor();
  await now("open");
  const made = lab.stand.cutter.made;
  await page.getByRole("button", { name: "Drop the socket" }).click();
  while (lab.stand.cutter.made === made) await page.waitForTimeout(20);
  await now("open");
  await page.getByRole("button", { name: "Go offline" }).click();
  await now("offline");
  await page.getByRole("complementary").getByRole("button", { name: "Go online" }).click();
  await now("open");
  await page.getByRole("button", { name: "Close for good" }).click();
  await now("closed");
  held.open();
  await page.getByRole("button", { name: "Reconnect now" }).click();
  await now("open");
  await isWhole(page);
});

it("kill -9 in mid-answer and a restart: the answer is whole, and taken over once", async () => {
  inTwoHalves();
  const page = await lab.open();
  await say(page, "Tell me");
  await untilText(page, BEGIN);
  await lab.stand.kill();
  await page.getByText("Connection lost.").waitFor();
  const held = inTwoHalves();
  held.open();
  await lab.stand.up();
  // As when a network comes back: it tries at once, however long it would have waited.
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await isWhole(page);
  await page.locator(".answer .facts").click();
  await page.getByText("2: taken over 1 time").waitFor();
  await screenshot(page, "taken-over");
});

it("a token that is refused is asked for again, and the next one signs in", async () => {
  const page = await lab.open("", { token: "nonsense", until: "unauthorized" });
  const dialog = page.getByRole("dialog", { name: "Sign in with a token" });
  await dialog.getByRole("alert").waitFor();
  await dialog.getByLabel("Token").fill(lab.stand.token("cy"));
  await dialog.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("cy · default").waitFor();
});

it("what two users share: who is here, who writes, and a note", async () => {
  const token = lab.stand.token("ben");
  const dev = await lab.open();
  await say(dev, "Hello Ben");
  await untilOver(dev);
  const url = dev.url();
  const id = decodeURIComponent(url.slice(url.indexOf("#") + 1));
  const stranger = await lab.open(`#${id}`, { token });
  await stranger.getByText("There is no such conversation").waitFor();
  await dev.keyboard.press("Alt+I");
  await dev.getByRole("tab", { name: "Shared" }).click();
  await dev.getByLabel("A note for everybody here").fill("Thursday");
  await dev.getByText("Version 0, by dev").waitFor();
  await dev.getByLabel("Share it with").fill("ben");
  await dev.getByRole("button", { name: "Share", exact: true }).click();
  await dev.getByText("ben may write here").waitFor();
  const ben = await lab.open(`#${id}`, { token });
  await untilText(ben, "You said: Hello Ben");
  await dev.locator(".avatar", { hasText: "ben" }).waitFor();
  await ben.fill("#draft", "I am");
  await dev.getByText("ben is writing").waitFor();
  await ben.keyboard.press("Alt+I");
  await ben.getByRole("tab", { name: "Shared" }).click();
  expect(await ben.getByLabel("A note for everybody here").inputValue()).toBe("Thursday");
});
