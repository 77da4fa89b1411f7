// A peer's side of the talk with the benchmark: one line of JSON when it accepts, its end when stdin closes.

export const env = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
};

export async function listen(httpServer, scheme) {
  await new Promise((resolve) => httpServer.listen(0, "127.0.0.1", resolve));
  const { port } = httpServer.address();
  process.stdin.resume();
  process.stdin.on("close", () => process.exit(0)); // the benchmark has its figures, and there is nothing to save
  process.stdout.write(`${JSON.stringify({ url: `${scheme}://127.0.0.1:${port}` })}\n`);
}
