"""A proxy before an S3 server on loopback that injects faults into its answers, and keeps what it was asked.

S3 clients sign the Host header: they sign for the proxy, and moto does not look at signatures.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from multidict import CIMultiDict

ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "403": (403, "AccessDenied", "Access Denied"),
    "409": (409, "ConditionalRequestConflict", "A conflicting conditional operation is in progress."),
}
WRITES = ("PUT", "POST", "DELETE")
CAN_BEFALL = {"lost": WRITES, "reset": ("GET",), "truncate": ("GET",), "short": ("GET",)}
"""The requests that some faults make a difference to: only answers to GET have a body of any length."""
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server", "content-encoding"}


@dataclass
class Seen:
    """A request that came in: its number from 0, and what befell it."""

    number: int
    at: float
    method: str
    path: str
    """With the query."""
    fault: str = ""
    status: int = 0

    @property
    def is_write(self) -> bool:
        return self.method in WRITES


Plan = Callable[[Seen], str]
"""Chooses what befalls a request: "" for nothing, a key of ERRORS, or

reset     half of the body arrives, then the connection is reset
truncate  half of the body arrives, then the connection is closed
short     half of the body arrives as if it were the whole
lost      the server does what it is asked; its answer never comes
unsent    the connection is closed before the server is asked
abort     the connection is reset before the server is asked
hold      the request waits until `release` is called, and is then sent if who asked is still there
late      likewise, and it is sent in any case
done      the server does what it is asked; its answer waits until `release` is called
"""


def never(_: Seen) -> str:
    return ""


def at_random(fault: str, rate: float, seed: int = 0) -> Plan:
    """Let a fault befall a share of all requests."""
    chance = random.Random(seed)
    return lambda _: fault if chance.random() < rate else ""


def mixed(rates: Mapping[str, float], seed: int = 0) -> Plan:
    """Let each fault befall its share of the requests that it makes a difference to."""
    chance = random.Random(seed)

    def plan(seen: Seen) -> str:
        roll = chance.random()
        for fault, rate in rates.items():
            if roll < rate:
                return fault if seen.method in CAN_BEFALL.get(fault, (seen.method,)) else ""
            roll -= rate
        return ""

    return plan


def first(num: int, fault: str, pattern: str = "", methods: tuple[str, ...] = ()) -> Plan:
    """Let a fault befall the first `num` requests that match."""
    left = [num]

    def plan(seen: Seen) -> str:
        if left[0] and re.search(pattern, seen.path) and (not methods or seen.method in methods):
            left[0] -= 1
            return fault
        return ""

    return plan


@dataclass
class FaultProxy:
    """Passes requests on to `target` until it is closed. `plan` may be exchanged at any time."""

    target: str
    plan: Plan = never
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._released = asyncio.Event()
        """Set: held requests go on."""
        self.held = threading.Event()
        self.url = f"http://127.0.0.1:{self._call(self._open())}"

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self) -> int:
        self._client = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    def release(self) -> None:
        """Let held requests go on."""
        self._loop.call_soon_threadsafe(self._released.set)

    def forget(self) -> None:
        """Forget what was asked, and hold again what `plan` says is to be held."""
        self.seen.clear()
        self.held.clear()
        self._loop.call_soon_threadsafe(self._released.clear)

    def count(self) -> Counter[str]:
        """Count requests by what befell them."""
        return Counter(seen.fault or "passed" for seen in self.seen)

    def close(self) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        await self._runner.cleanup()
        await self._client.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen = Seen(len(self.seen), time.monotonic(), request.method, request.raw_path)
        self.seen.append(seen)
        seen.fault = self.plan(seen)
        if seen.fault in {"hold", "late"}:
            await self._hold()
            if seen.fault == "hold" and request.transport is None:
                return web.Response()
        if seen.fault in ERRORS:
            return _make_error(request, seen)
        if seen.fault in {"unsent", "abort"}:
            return _hang_up(request, reset=seen.fault == "abort")
        kept = CIMultiDict((n, v) for n, v in request.headers.items() if n.lower() not in _HOP - {"content-encoding"})
        async with self._client.request(
            request.method, self.target + request.raw_path, data=body, headers=kept, skip_auto_headers=["Content-Type"]
        ) as answer:
            content = await answer.read()
        seen.status = answer.status
        if seen.fault == "done":
            await self._hold()
        if seen.fault == "lost":
            return _hang_up(request)
        headers = CIMultiDict((n, v) for n, v in answer.headers.items() if n.lower() not in _HOP)
        length = answer.headers.get("Content-Length", "0") if request.method == "HEAD" else str(len(content))
        return await _answer(request, seen, content, CIMultiDict({**headers, "Content-Length": length}))

    async def _hold(self) -> None:
        self.held.set()
        await self._released.wait()


async def _answer(request: web.Request, seen: Seen, content: bytes, headers: CIMultiDict[str]) -> web.StreamResponse:
    broken = seen.fault in {"reset", "truncate", "short"} and content
    sent = content[: len(content) // 2] if broken else content
    if seen.fault == "short" and broken:
        headers["Content-Length"] = str(len(sent))
    response = web.StreamResponse(status=seen.status, headers=headers)
    await response.prepare(request)
    if request.method != "HEAD" and sent:
        await response.write(sent)
    if broken and seen.fault != "short":
        return _hang_up(request, response, reset=seen.fault == "reset")
    await response.write_eof()
    return response


def _make_error(request: web.Request, seen: Seen) -> web.Response:
    seen.status, code, message = ERRORS[seen.fault]
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(status=seen.status, body=b"" if request.method == "HEAD" else body.encode())


def _hang_up(
    request: web.Request, response: web.StreamResponse | None = None, reset: bool = False
) -> web.StreamResponse:
    """Close the connection under the request; `reset`: by RST, not FIN."""
    transport = request.transport
    assert transport is not None
    if reset:
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.close()
    return response or web.Response(status=500)


@contextmanager
def proxied(target: str) -> Iterator[FaultProxy]:
    """Put a proxy before an S3 server; this process, and those it starts meanwhile, reach the server through it."""
    import s3fs

    proxy = FaultProxy(target)
    before = os.environ.get("AWS_ENDPOINT_URL")
    os.environ["AWS_ENDPOINT_URL"] = proxy.url
    # Clients are cached by their arguments, and the address is none of these.
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield proxy
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        os.environ.pop("AWS_ENDPOINT_URL") if before is None else os.environ.update({"AWS_ENDPOINT_URL": before})
        proxy.release()
        proxy.close()
