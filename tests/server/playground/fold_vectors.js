// Runs the playground's fold over the fold vectors: `node fold_vectors.js fold.js vectors.json`. Prints, in the
// order of the cases, the view each one ends in or the error of its last frame.
const fs = require("fs");
const vm = require("vm");

const [source, vectors] = process.argv.slice(2).map((path) => fs.readFileSync(path, "utf8"));
const { Conversation } = vm.runInThisContext(`${source}; ({ Conversation })`);

/** As the page does it: log events of one frame together, a snapshot in between by itself. */
function takeFrame(conversation, frame) {
  let events = [];
  for (const message of frame) {
    if (message.type === "conversation.snapshot") {
      conversation.take(events);
      events = [];
      conversation.replace(message);
    } else if (message.seq) events.push(message);
  }
  conversation.take(events);
}

function view(conversation) {
  const active = conversation.running().map((request) => {
    const { parts, steered, answer_at, ...known } = request;
    return { ...known, conversation_id: conversation.id, message: conversation.answerOf(request) };
  });
  const context = [...conversation.context.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
  const { epoch, seq } = conversation;
  return { epoch, seq, messages: conversation.branch(), active, ...(context.length ? { context } : {}) };
}

function run({ epoch }, { snapshot, frames }) {
  const conversation = new Conversation("conv-1", { epoch });
  try {
    if (snapshot) conversation.replace(snapshot);
    for (const frame of frames) takeFrame(conversation, frame);
    return { view: view(conversation) };
  } catch (error) {
    return { error: error.message.split(":")[0] };
  }
}

const { cases, ...head } = JSON.parse(vectors);
process.stdout.write(JSON.stringify(cases.map((one) => run(head, one))));
