// A streaming chat on Socket.IO, for more than one server: the Redis streams adapter and connection state recovery, both
// as their documentation sets them up, and the model through openai-node's typed stream. Each delta is emitted to the
// request's room, so that whoever joins it sees it on any server; the adapter waits for its XADD before it sends.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import OpenAI from "openai";
import { createClient } from "redis";
import { Server } from "socket.io";
import { env, listen } from "./started.mjs";

const openai = new OpenAI({ baseURL: env("BENCH_PROVIDER"), apiKey: "sk-benchmark" });
const redisClient = createClient({ url: env("REDIS_URL") });
await redisClient.connect();

const httpServer = createServer();
const io = new Server(httpServer, {
  transports: ["websocket"],
  adapter: createAdapter(redisClient),
  connectionStateRecovery: { maxDisconnectionDuration: 2 * 60 * 1000 },
});

async function answer(room) {
  const stream = await openai.chat.completions.create({
    model: "bench",
    messages: [{ role: "user", content: "Write on and on." }],
    stream: true,
  });
  let seq = 0;
  for await (const chunk of stream) {
    const text = chunk.choices[0]?.delta?.content;
    if (text) io.to(room).emit("delta", { seq: seq++, text });
  }
  io.to(room).emit("done", { seq });
}

io.on("connection", (socket) => {
  socket.on("ask", async ({ request_id }) => {
    socket.join(request_id);
    try {
      await answer(request_id);
    } catch (error) {
      io.to(request_id).emit("failed", { message: String(error) });
    }
  });
});

await listen(httpServer, "ws");
