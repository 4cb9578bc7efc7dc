"""Servers on loopback: one that answers OpenAI's protocol by a script, and a proxy that injects faults.

Each runs on a thread of its own, on a free port, and keeps what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, web


@dataclass
class Asked:
    """A request that came in."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    method: str = "POST"


@dataclass
class Reply:
    """What to answer, and how."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    latency_s: float = 0.0
    fault: str = ""
    """cut: the connection ends in the middle of the body; slow: the body trickles on, a byte at a time."""


class LoopbackServer:
    """Serves `handle` until it is stopped; a context manager."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._call(self._open())

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, asked: Asked) -> Reply:
        raise NotImplementedError

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self) -> int:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Asked(request.path, json.loads(await request.read() or b"{}"), headers, request.method)
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = await self.handle(asked)
            if reply.latency_s:
                await asyncio.sleep(reply.latency_s)
        finally:
            self.in_flight -= 1
        return await self._reply(request, reply)

    async def _reply(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        headers = {"Content-Type": "application/json", **reply.headers}
        if not reply.fault:
            return web.Response(status=reply.status, body=body, headers=headers)
        response = web.StreamResponse(status=reply.status, headers={**headers, "Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if reply.fault == "cut":
            assert request.transport is not None
            request.transport.close()
            return response
        for byte in body[len(body) // 2 :]:
            await asyncio.sleep(0.2)
            await response.write(bytes([byte]))
        return response

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class ScriptedServer(LoopbackServer):
    """Answers with what a function makes of a request."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        super().__init__()

    async def handle(self, asked: Asked) -> Reply:
        return self.answer(asked)


class FaultyProxy(LoopbackServer):
    """Passes requests on to a real server; each of `faults` befalls one request, in turn.

    429:SECONDS (Retry-After), 500, 503, 401, cut, slow, malformed (half a JSON object as a whole body).
    """

    def __init__(self, target: str) -> None:
        self._target = target.removesuffix("/v1")
        self.faults: list[str] = []
        super().__init__()

    async def handle(self, asked: Asked) -> Reply:
        fault = self.faults.pop(0) if self.faults else ""
        if fault[:3].isdigit():
            status, _, wait = fault.partition(":")
            error = {"error": {"message": f"injected {status}", "type": "injected", "code": None}}
            return Reply(error, int(status), {"Retry-After": wait} if wait else {})
        kept = {name: asked.headers[name] for name in ("authorization", "content-type") if name in asked.headers}
        async with (
            ClientSession() as session,
            session.request(asked.method, self._target + asked.path, json=asked.body or None, headers=kept) as answer,
        ):
            body, status = await answer.read(), answer.status
        return Reply(body[: len(body) // 2], status) if fault == "malformed" else Reply(body, status, fault=fault)


def chat_answer(content: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion as OpenAI's server writes it: 11 prompt tokens, 7 output tokens."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish_reason,
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def error_answer(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI's server writes it."""
    return Reply({"error": {"message": message, "type": "some_error", "param": None, "code": code}}, status, headers)
