// A streaming chat on the AI SDK that survives reloads, after its guide "Chatbot Resume Streams": streamText, the UI message
// stream over SSE, a copy of it held by resumable-stream with Redis. Two endpoints: POST starts an answer, GET resumes it.
// The guide runs in Next.js; here the SDK's own functions for Node's http server take that place, and chats are kept in
// memory. The context, and with it Redis's connections, is made once, as in resumable-stream's readme.
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { json } from "node:stream/consumers";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  convertToModelMessages,
  generateId,
  pipeUIMessageStreamToResponse,
  streamText,
  toUIMessageStream,
  UI_MESSAGE_STREAM_HEADERS,
} from "ai";
import { createResumableStreamContext } from "resumable-stream";
import { env, listen } from "./started.mjs";

const provider = createOpenAICompatible({ name: "bench", baseURL: env("BENCH_PROVIDER"), apiKey: "sk-benchmark" });
env("REDIS_URL"); // resumable-stream reads it by itself
const streamContext = createResumableStreamContext({ waitUntil: null });
const chats = new Map();

async function post(request, response) {
  const { id, message } = await json(request);
  const messages = [...(chats.get(id)?.messages ?? []), message];
  chats.set(id, { messages, activeStreamId: null });
  const result = streamText({ model: provider("bench"), messages: await convertToModelMessages(messages) });
  await pipeUIMessageStreamToResponse({
    response,
    stream: toUIMessageStream({
      stream: result.stream,
      originalMessages: messages,
      generateMessageId: generateId,
      onEnd: ({ messages }) => chats.set(id, { messages, activeStreamId: null }),
    }),
    async consumeSseStream({ stream }) {
      const streamId = generateId();
      await streamContext.createNewResumableStream(streamId, () => stream);
      chats.set(id, { messages, activeStreamId: streamId });
    },
  });
}

async function resume(id, response) {
  const { activeStreamId } = chats.get(id) ?? {};
  const stream = activeStreamId && (await streamContext.resumeExistingStream(activeStreamId));
  if (!stream) return response.writeHead(204).end();
  response.writeHead(200, UI_MESSAGE_STREAM_HEADERS);
  return Readable.fromWeb(stream).pipe(response);
}

const httpServer = createServer((request, response) => {
  const id = request.url.match(/^\/api\/chat\/([^/]+)\/stream$/)?.[1];
  const answered =
    request.method === "POST" && request.url === "/api/chat"
      ? post(request, response)
      : request.method === "GET" && id
        ? resume(decodeURIComponent(id), response)
        : response.writeHead(404).end();
  Promise.resolve(answered).catch((error) => {
    console.error(error);
    response.destroy();
  });
});

await listen(httpServer, "http");
