// A voice front end: listens and speaks where the browser can, and is typed to otherwise. Sentences are spoken as they
// come; whoever cuts in stops the voice at once, and the answer is kept exactly as far as it was spoken.
import { connect, type Turn, type wire } from "@turnwire/client";

const conversation = connect("ws://127.0.0.1:8787/v1").conversation("voice");
const out = document.querySelector("#out") as HTMLElement;
const input = document.querySelector("#in") as HTMLInputElement;
let turn: Turn | undefined;

function speak({ part, start, text }: wire.OutputTextSegment, of: Turn): Promise<void> {
  out.textContent += text;
  const told = (end: number) => of.presented({ part, offset: start + end });
  if (!("speechSynthesis" in window)) return Promise.resolve(told(text.length));
  return new Promise((resolve) => {
    const words = new SpeechSynthesisUtterance(text);
    words.onboundary = ({ charIndex }) => told(charIndex);
    words.onend = () => resolve(told(text.length));
    words.onerror = () => resolve();
    speechSynthesis.speak(words);
  });
}

async function answer(said: string): Promise<void> {
  out.textContent = "";
  const mine = conversation.send(said, {
    onBusy: "interrupt",
    segments: { unit: "sentence", first_min_chars: 20, max_hold_ms: 1500 },
  });
  turn = mine;
  const spoken: Promise<void>[] = [];
  for await (const event of mine)
    if (event.type === "output_text.segment" && turn === mine) spoken.push(speak(event, mine));
  await Promise.all(spoken);
}

/** The user has begun to speak: be quiet now, and go on when it was nothing. */
function cutIn(phase: "tentative" | "confirmed" | "retracted"): void {
  if ("speechSynthesis" in window) phase === "tentative" ? speechSynthesis.pause() : speechSynthesis.resume();
  if (phase === "confirmed" && "speechSynthesis" in window) speechSynthesis.cancel();
  turn?.interrupt({ phase }).catch(() => {}); // it may have ended by itself
}

// biome-ignore lint/suspicious/noExplicitAny: not in TypeScript's library yet
const Recognition = (window as any).SpeechRecognition ?? (window as any).webkitSpeechRecognition;
if (Recognition) {
  const ears = Object.assign(new Recognition(), { continuous: true });
  ears.onspeechstart = () => cutIn("tentative");
  ears.onnomatch = () => cutIn("retracted");
  ears.onresult = ({ results, resultIndex }: { results: { transcript: string }[][]; resultIndex: number }) => {
    cutIn("confirmed");
    void answer(results[resultIndex]?.[0]?.transcript ?? "");
  };
  ears.start();
}
input.addEventListener("change", () => {
  cutIn("confirmed");
  void answer(input.value);
  input.value = "";
});
