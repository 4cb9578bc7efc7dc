"""Skew: lengths with a heavy tail (lognormal, log-SD 1) on 4 engines. Simulated: scripted engines.

wall_over_ideal   time from the first draw to the end of the last one, over that which all slots together would need for
                  the draws that outcomes depend on, were none ever idle
"""

from __future__ import annotations

import sys
from typing import Any

from tests.bench import harness
from tests.bench.harness import say
from tests.bench.paced_engine import make_corpus, read_wall_s, run_config, sum_needed_lengths

FULL = {"units": 40_000, "engines": 4, "slots": 32, "mean_s": 0.25, "sigma": 1.0, "shard": 100}
QUICK = {"units": 8_000, "engines": 4, "slots": 32, "mean_s": 0.25, "sigma": 1.0, "shard": 100}


def main(arguments: list[str]) -> None:
    from jobs import infer_traces

    options = harness.apply_sizes(harness.make_parser("skew", __doc__), arguments, FULL, QUICK)
    harness.use_job_environment()
    folder = harness.empty_folder(options.work)
    gate, run = folder / "gate", folder / "run"
    with harness.own_ray():
        corpus = make_corpus(folder / "input", options.units, options.shard)
        config = run_config(
            corpus,
            run,
            replicas=options.engines,
            slots=options.slots,
            mean_s=options.mean_s,
            gate=gate,
            sigma=options.sigma,
        )
        if infer_traces.main([str(harness.write_config(folder / "config.toml", config))]):
            raise RuntimeError("infer_traces failed")
    wall = read_wall_s(gate)
    ideal = sum_needed_lengths(run, options.sigma) * options.mean_s / options.slots / options.engines
    say(f"{wall:.1f} s, ideal {ideal:.1f} s")
    figures: dict[str, Any] = {"wall_over_ideal": wall / ideal, "wall_s": wall, "ideal_s": ideal}
    harness.finish("skew", figures, {key: getattr(options, key) for key in FULL}, simulated=True)


if __name__ == "__main__":
    main(sys.argv[1:])
