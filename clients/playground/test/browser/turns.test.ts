// Turns in a real browser: streaming, stopping, cutting in, steering, queueing, branches, tools.
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { callTool, gate } from "../../../js/test/support/provider";
import { Lab, say, screenshot, textOf, untilOver, untilText } from "../support/browser";

const lab = new Lab();
const { provider } = lab.stand;
beforeAll(() => lab.start());
afterEach(() => lab.clear());
afterAll(() => lab.stop());

it("an answer is shown while it is written, and told once it is complete", async () => {
  const held = gate();
  provider.scripts.push(async function* () {
    yield "A **bo";
    await held.pass();
    yield "ld** word, and `code`.\n\n```js\nlet x = 1;\n```";
  });
  const page = await lab.open();
  await say(page, "Hello");
  await untilText(page, "A bo");
  expect(await page.locator(".answer strong").textContent()).toBe("bo");
  expect(await page.locator(".item.current .title").textContent()).toBe("Hello");
  await screenshot(page, "streaming");
  held.open();
  await untilOver(page);
  expect(await textOf(page)).toBe("A bold word, and code.jslet x = 1;");
  await page.getByText("The answer is complete. A **bold** word").waitFor({ state: "attached" });
  expect(await page.locator(".answer .facts").textContent()).toMatch(/test-model · .* · 1 token/);
});

it("what a model writes never becomes markup", async () => {
  provider.scripts.push(async function* () {
    yield '<img src=x onerror="document.title=1">\n\n<script>document.title=2</script> [a](javascript:alert(1)) ![b](http://elsewhere.example/b.png)';
  });
  const page = await lab.open();
  await say(page, "Attack");
  await untilOver(page);
  expect(await page.locator(".answer img, .answer script, .answer a[href^=javascript]").count()).toBe(0);
  expect(await textOf(page)).toContain('<img src=x onerror="document.title=1">');
});

it("Escape stops the answer and keeps what came", async () => {
  const held = gate();
  provider.scripts.push(async function* () {
    yield "First words";
    await held.pass();
    yield " that nobody wants";
  });
  const page = await lab.open();
  await say(page, "Go on for ever");
  await untilText(page, "First words");
  const { gone } = provider;
  await page.keyboard.press("Escape");
  await page.getByText("Stopped", { exact: true }).waitFor();
  await provider.until(() => provider.gone > gone);
  held.open();
  expect(await textOf(page)).toBe("First words");
});

it("cutting in keeps what was seen, and says how much", async () => {
  const held = gate();
  provider.scripts.push(async function* () {
    yield "Twelve chars";
    await held.pass();
    yield " and more";
  });
  const page = await lab.open();
  await say(page, "Talk");
  await untilText(page, "Twelve chars");
  await page.getByRole("button", { name: "Interrupt" }).click();
  await page.getByText("Interrupted · 12 of 12 characters kept, as far as seen").waitFor();
  held.open();
});

it("a queued message shows its place and can be taken back, the next one is answered", async () => {
  const held = gate();
  provider.scripts.push(async function* () {
    yield "Busy";
    await held.pass();
  });
  const page = await lab.open();
  await say(page, "First");
  await untilText(page, "Busy");
  await say(page, "Second");
  await page.getByText("Queued · 1").waitFor();
  await say(page, "Third");
  await page.getByText("Queued · 2").waitFor();
  await page.locator(".waiting li", { hasText: "Second" }).getByRole("button", { name: "Take it back" }).click();
  await page.getByText("Taken back before it began").waitFor();
  held.open();
  await untilText(page, "Third", 2);
});

it("steering folds a message into the running answer", async () => {
  const held = gate();
  provider.scripts.push(
    async function* () {
      yield "Going north";
      await held.pass();
      yield " and further north";
    },
    async function* () {
      yield "Going south now";
    },
  );
  const page = await lab.open();
  await say(page, "Where to?");
  await untilText(page, "Going north");
  await page.fill("#draft", "South, please");
  await page.getByRole("button", { name: "Steer" }).first().click();
  await page.press("#draft", "Enter");
  await page.locator(".steered", { hasText: "South, please" }).waitFor();
  await untilText(page, "Going south now");
  await untilOver(page);
  held.open();
  expect(await page.locator(".turn").count()).toBe(1);
});

it("answering anew begins a branch, and the one before can be seen again", async () => {
  provider.scripts.push(
    async function* () {
      yield "One answer";
    },
    async function* () {
      yield "Another answer";
    },
  );
  const page = await lab.open();
  await say(page, "Ask");
  await untilText(page, "One answer");
  await untilOver(page);
  await page.getByRole("button", { name: "Answer anew" }).click();
  await untilText(page, "Another answer");
  await page.getByText("2/2").waitFor();
  await page.getByRole("button", { name: "Branch before" }).click();
  await untilText(page, "One answer");
  await page.getByText("This is an older branch").waitFor();
  await page.reload();
  await untilText(page, "Another answer");
  await page.getByText("2/2").waitFor();
});

it("a message said differently is a branch of its own", async () => {
  const page = await lab.open();
  await say(page, "Frist");
  await untilText(page, "You said: Frist");
  await untilOver(page);
  await page.getByRole("button", { name: "Edit" }).click();
  expect(await page.inputValue("#draft")).toBe("Frist");
  await say(page, "First");
  await untilText(page, "You said: First");
  expect(await page.locator(".turn").count()).toBe(1);
  await page.getByText("2/2").waitFor();
});

it("the reader's place is theirs while an answer goes on", async () => {
  const held = gate();
  const lines = (from: number) => Array.from({ length: 60 }, (_, n) => `Line ${from + n}\n\n`).join("");
  provider.scripts.push(async function* () {
    yield lines(0);
    await held.pass();
    yield lines(60);
  });
  const page = await lab.open();
  await say(page, "Many lines");
  await untilText(page, "Line 59");
  const scroller = page.locator(".thread-scroll");
  const fromEnd = () => scroller.evaluate((at) => at.scrollHeight - at.scrollTop - at.clientHeight);
  expect(await fromEnd()).toBeLessThan(60);
  await scroller.evaluate((at) => at.scrollTo(0, 200));
  const jump = page.getByRole("button", { name: "Jump to latest" });
  await jump.waitFor();
  held.open();
  await untilText(page, "Line 119");
  expect(await scroller.evaluate((at) => at.scrollTop)).toBe(200);
  await jump.click();
  expect(await fromEnd()).toBeLessThan(60);
});

it("a tool waits for approval and runs with the arguments that were changed", async () => {
  const page = await lab.open();
  await page.getByRole("button", { name: /Approve a tool/ }).click();
  await page.getByText("Needs your approval").waitFor();
  await screenshot(page, "approval");
  await page.getByRole("button", { name: "Edit", exact: true }).click();
  const field = page.getByLabel("Run it with these arguments instead");
  await field.fill("{ no json");
  await page.getByText("This is no JSON object yet.").waitFor();
  expect(await page.getByRole("button", { name: /^Approve/ }).isDisabled()).toBe(true);
  await field.fill('{"to": "Grace", "text": "one two three"}');
  await page.getByRole("button", { name: "Approve with changes" }).click();
  await page.getByText("approved with changes").waitFor();
  await untilText(page, '"sent_to":"Grace"');
});

it("a tool that is denied says so, and the answer goes on", async () => {
  const page = await lab.open();
  await page.getByRole("button", { name: /Approve a tool/ }).click();
  await page.getByRole("button", { name: "Deny" }).click();
  await page.locator(".tool .tool-state", { hasText: "denied" }).waitFor();
  await untilText(page, "the user did not allow this");
});

it("the model changes the page with a tool that the page runs", async () => {
  provider.scripts.push(async function* () {
    yield callTool("page_colour", { colour: "rose" });
  });
  const page = await lab.open();
  await say(page, "Make it rosy");
  await page.locator(".tool", { hasText: "in this browser" }).getByText("Done").waitFor();
  expect(await page.evaluate(() => document.documentElement.style.getPropertyValue("--hue"))).toBe("10");
});

it("a failure says what to do, and is tried again on a branch of its own", async () => {
  const page = await lab.open();
  await page.getByRole("button", { name: /Fail, and say why/ }).click();
  await page.getByText("The model failed. Try again").waitFor();
  await screenshot(page, "failure");
  await page.getByRole("button", { name: "Try again" }).click();
  await page.getByText("2/2").waitFor();
  await page.getByText("The model failed. Try again").waitFor();
});

it("a conversation is deleted after asking, and its address leads nowhere then", async () => {
  const page = await lab.open();
  await say(page, "Short-lived");
  await untilOver(page);
  const url = page.url();
  await page.locator(".item", { hasText: "Short-lived" }).hover();
  await page.getByRole("button", { name: "Delete “Short-lived”" }).click();
  await page.getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByText("Talk to a model").waitFor();
  const other = await lab.open(url.slice(url.indexOf("#")));
  await other.getByText("There is no such conversation").waitFor();
});
