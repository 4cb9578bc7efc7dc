"""Send requests to an OpenAI-compatible server with the official client, and turn its failures into ours.

The official client's own retries are off: it waits for each request alone, while an overloaded server must be spared by
all. No error of this module holds the key, nor an error of the client's that does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from judgetrace.endpoint_answers import MalformedAnswerError
from judgetrace.endpoint_config import OPENAI_URL, EndpointConfig
from judgetrace.engine import AccessRefusedError, EngineDeadError, PromptRefusedError, RequestFailedError
from judgetrace.pacing import Pacer, TransientError, parse_wait

Read = TypeVar("Read")

NO_KEY = "no-key"
"""What the official client, which wants a key, sends to a server that is told none."""
_LONGEST_MESSAGE = 400
_TRANSIENT, _OVERLOADED = {408, 409, 425, 429}, {429, 503, 529}
_BAD_ACCESS = {401, 402}
_MAYBE_BAD_ACCESS = {403, 404}
"""What a server says of a wrong model or key, and a gateway before it of a text that it takes for an attack."""
_REFUSED_CODES = {"context_length_exceeded", "string_above_max_length", "content_filter", "content_policy_violation"}
_REFUSED = re.compile(
    r"context.{0,10}(length|window)|prompt.{0,30}too long|too many (input )?tokens"
    r"|content (management )?(policy|filter)|flagged|moderation",
    re.IGNORECASE,
)


class RequestRefusedError(RequestFailedError):
    """The server does not take a request's parameters: every request with them will fail."""


class EndpointClient:
    """One server, as long as one event loop lives."""

    def __init__(self, config: EndpointConfig, model: str, slots: int):
        """Open connections for `slots` requests at once. Raises ValueError where the key's variable is not set."""
        import aiohttp
        import httpx2
        import openai

        self._config, self._openai = config, openai
        # The client's adapter to aiohttp lets some of aiohttp's errors through.
        self._broken = (openai.APIConnectionError, aiohttp.ClientError, OSError)
        self._key = _read_key(config)
        limits = httpx2.Limits(max_connections=slots + 1, max_keepalive_connections=slots + 1)
        self._client = openai.AsyncOpenAI(
            api_key=self._key or NO_KEY,
            base_url=config.address() or OPENAI_URL,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=min(30.0, config.timeout_s)),
            # On aiohttp, which Ray brings along: half the CPU time of the default.
            http_client=openai.DefaultAioHttpClient(limits=limits),
        )
        self._raw_response: Any = httpx2.Response
        url = self._client.base_url
        self.base_url = str(url.copy_with(username=None, password=None, query=None)).rstrip("/")
        key = f"the key in {config.key_variable}" if config.key_variable else "no key (endpoint.api_key_env)"
        self.place = f"{self.base_url} with model {model!r} and {key}"
        self.pacer = Pacer(slots, config.max_tries, config.longest_wait_s)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Read]) -> Read:
        """Send a request when the server bears it, again after passing failures; returns what `read` makes of it.

        `path` is below base_url, or a whole URL; `read` may raise MalformedAnswerError to have another try.
        Raises EngineDeadError (key, model or address are wrong), PromptRefusedError, RequestRefusedError and
        OutOfTriesError, besides what `read` raises.
        """
        return await self.pacer.send(lambda: self._try(path, body, read))

    async def get(self, path: str, read: Callable[[Any], Read]) -> Read:
        """Ask for what is at `path`, as `post` does."""
        return await self.pacer.send(lambda: self._try(path, None, read))

    async def _try(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], Read]) -> Read:
        try:
            answer: Any = json.loads(await self._request(path, body))
            return read(answer)
        except (json.JSONDecodeError, UnicodeDecodeError, MalformedAnswerError) as error:
            failure = TransientError(self._redact(f"no valid answer: {error}"))
        raise failure

    async def _request(self, path: str, body: Mapping[str, Any] | None) -> bytes:
        failure: Exception
        self._loop = asyncio.get_running_loop()
        try:
            # The client's own time-outs are for each piece of an answer: one that trickles would never end.
            async with asyncio.timeout(self._config.timeout_s):
                if body is None:
                    response = await self._client.get(path, cast_to=self._raw_response)
                else:
                    response = await self._client.post(path, body=body, cast_to=self._raw_response)
            return bytes(response.content)
        except TimeoutError:
            failure = TransientError(f"no whole answer within {self._config.timeout_s:g} s")
        except self._broken as error:
            failure = TransientError(self._redact(f"no connection, or a broken one: {error.__cause__ or error}"))
        except self._openai.APIStatusError as error:
            failure = self._explain(error)
        # Out here, so that the client's error, which holds the request with its key, is no part of ours.
        raise failure

    def _explain(self, error: Any) -> Exception:
        body = error.body if isinstance(error.body, dict) else {}
        message = self._redact(str(body.get("message") or error.message))
        headers = {name.lower(): value for name, value in error.response.headers.items()}
        wait_s = parse_wait(headers, datetime.now(UTC))
        return explain_status(error.status_code, str(error.code or ""), message, wait_s, self.place)

    def _redact(self, text: str) -> str:
        """Shorten a message, and hide the key where a server repeats it."""
        return (text.replace(self._key, "[key]") if self._key else text)[:_LONGEST_MESSAGE]

    async def close(self) -> None:
        """Close the connections, on the event loop that opened them."""
        await self._client.close()

    def close_soon(self) -> None:
        """Close the connections from anywhere."""
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self.close(), self._loop)


def explain_status(status: int, code: str, message: str, wait_s: float | None, place: str) -> Exception:
    """Make the error of an HTTP status that is none of success; `place` says where and with what key and model."""
    said = f"{status}: {message}"
    if status == 402 or code == "insufficient_quota":
        return EngineDeadError(f"{place} has no credit: {said}", from_outside=True)
    if status in _TRANSIENT or status >= 500:
        return TransientError(said, status in _OVERLOADED, wait_s)
    if code in _REFUSED_CODES or status == 413 or _REFUSED.search(message):
        return PromptRefusedError(said)
    if status in _MAYBE_BAD_ACCESS:
        return AccessRefusedError(f"{place} is not to be had: {said}")
    if status in _BAD_ACCESS:
        return EngineDeadError(f"{place} is not to be had: {said}", from_outside=True)
    return RequestRefusedError(f"the server does not take the request ({said})")


def _read_key(config: EndpointConfig) -> str | None:
    name = config.key_variable
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(f"the environment variable {name}, which should hold the key, is not set in this process")
    return key
