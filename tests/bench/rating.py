"""Rating through an endpoint: how close the client comes to what its concurrency allows, and what faults cost.

A server on loopback, in a process of its own, answers every chat request after a fixed latency with what names the
request. EndpointEngine asks it, all requests at once, `slots` in flight.

throughput_ratio   answers/s over slots / latency, the most that so many requests in flight can give; the start of the
                   engine is apart, ramp-up and tail are in; the median of the rounds
faults             the same with a share of the tries answered by 503: `lost` requests that got no answer, `doubled`
                   answers to a request that is not theirs or came twice, and the rate while the client backs off
                   and waits longer from try to try (one request that fails five times in a row sets a round's end)
recovery_s         seconds after a phase in which every try is answered by 503, until as many requests are in flight as
                   allowed again

All figures are of a scripted server: nothing is generated.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import statistics
import sys
import time
from collections import Counter
from typing import Any

from judgetrace.endpoint_config import EndpointConfig
from judgetrace.endpoint_engine import EndpointEngine
from judgetrace.engine import Completion, EngineConfig, EngineSpec, ModelConfig, Request
from tests.bench import harness
from tests.bench.harness import say
from tests.loopback import Asked, Reply, ScriptedServer, chat_answer, error_answer

FULL = {"requests": 3200, "rounds": 5, "slots": 16, "latency_ms": 50, "fault_percent": 10}
QUICK = {"requests": 320, "rounds": 1, "slots": 16, "latency_ms": 50, "fault_percent": 10}
OUTAGE_S = 2.0


def serve(latency_s: float, controls: Any, urls: Any) -> None:
    """Serve until the process is ended. `controls`: the share of tries that get a 503."""
    chance = random.Random(0)

    def answer(asked: Asked) -> Reply:
        if chance.random() < controls.value:
            reply = error_answer(503, "busy")
            reply.latency_s = latency_s
            return reply
        return Reply(chat_answer(f"<rating>{asked.body['seed']}</rating>"), latency_s=latency_s)

    server = ScriptedServer(answer)
    urls.put(server.base_url)
    while True:
        time.sleep(1.0)
        server.asked.clear()


async def ask_all(engine: EndpointEngine, numbers: range) -> list[Completion | BaseException]:
    """Ask so many requests at once; answers or errors in their order."""
    prompt = engine.make_prompts([[{"role": "user", "content": "Rate it. " * 60}]])[0]
    requests = [Request(str(n), prompt, n, 1.0, 1.0, 0, 64) for n in numbers]
    return await asyncio.gather(*(engine.generate(request) for request in requests), return_exceptions=True)


async def measure(engine: EndpointEngine, controls: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds without faults, those with them, and the outage."""
    ideal = options.slots / options.latency_ms * 1000
    await ask_all(engine, range(1, 4 * options.slots))
    clean = [await measure_round(engine, options.requests, ideal) for _ in range(options.rounds)]
    controls.value = options.fault_percent / 100
    faulty = [await measure_round(engine, options.requests, ideal) for _ in range(options.rounds)]
    recovery_s = await measure_recovery(engine, controls, options.slots)
    await engine._client.close()
    rounds = [*clean, *faulty]
    return {
        "throughput_ratio": statistics.median(one["ratio"] for one in clean),
        "lost": sum(one["lost"] for one in rounds),
        "doubled": sum(one["doubled"] for one in rounds),
        "throughput_ratio_under_faults": statistics.median(one["ratio"] for one in faulty),
        "recovery_s": recovery_s,
        "ideal_answers_per_s": ideal,
        "rounds": {"clean": clean, "faulty": faulty},
    }


async def measure_round(engine: EndpointEngine, num_requests: int, ideal: float) -> dict[str, Any]:
    began = time.monotonic()
    answers = await ask_all(engine, range(1, num_requests + 1))
    seconds = time.monotonic() - began
    texts = Counter(answer.text for answer in answers if isinstance(answer, Completion))
    expected = Counter(f"<rating>{n}</rating>" for n in range(1, num_requests + 1))
    figures = {
        "ratio": round(num_requests / seconds / ideal, 4),
        "lost": (expected - texts).total(),
        "doubled": (texts - expected).total(),
    }
    say(f"{num_requests} requests in {seconds:.2f} s: {figures}")
    return figures


async def measure_recovery(engine: EndpointEngine, controls: Any, slots: int) -> float:
    """Let every try fail for a while; returns how long it then takes until all slots are in use."""
    pacer = engine._client.pacer
    controls.value = 1.0
    asking = asyncio.create_task(ask_all(engine, range(1, 100 * slots)))
    await asyncio.sleep(OUTAGE_S)
    lowest = pacer.limit
    controls.value, began = 0.0, time.monotonic()
    while pacer.in_flight < slots:
        await asyncio.sleep(0.01)
    seconds = time.monotonic() - began
    failed = sum(isinstance(answer, BaseException) for answer in await asking)
    say(f"outage of {OUTAGE_S:g} s: {lowest:.1f} in flight, all {slots} again {seconds:.2f} s later; {failed} failed")
    return round(seconds, 2)


def main(arguments: list[str]) -> None:
    options = harness.apply_sizes(harness.make_parser("rating", __doc__), arguments, FULL, QUICK)
    context = multiprocessing.get_context("spawn")
    controls, urls = context.Value("d", 0.0), context.Queue()
    server = context.Process(target=serve, args=(options.latency_ms / 1000, controls, urls), daemon=True)
    server.start()
    try:
        config = EndpointConfig(base_url=urls.get(timeout=60))
        engine = EndpointEngine(
            EngineSpec(ModelConfig(path="scripted"), EngineConfig(slots=options.slots), endpoint=config)
        )
        figures = asyncio.run(measure(engine, controls, options))
    finally:
        server.kill()
        server.join()
    harness.finish("rating", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
