"""Takes what servers export of their traces (OTLP over HTTP), and looks at none of it."""

from __future__ import annotations

from aiohttp import web

from benchmarks.processes import obey, run, say


async def _take(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(content_type="application/x-protobuf")


async def main() -> None:
    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/v1/traces", _take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    say({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"})
    await obey({})
    await runner.cleanup()


if __name__ == "__main__":
    run(main())
