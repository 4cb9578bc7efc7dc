"""Room for embedding beside engines that stay up: checked before the start, and not waited for without an end."""

from __future__ import annotations

import time

import pytest

from judgetrace.config import UserError
from judgetrace.refining.candidate_config import EmbeddingConfig
from judgetrace.refining.config import RefineGuidelineConfig
from judgetrace.refining.embeddings import embed_on_ray
from judgetrace.refining.run import check_rooms

pytestmark = pytest.mark.slow


def make_config(replicas: int, **more: object) -> RefineGuidelineConfig:
    engine = {"kind": "tests.guided_generator:GuidedGenerator", "num_cpus": 0.5, "max_replicas": replicas}
    model = {"path": "scripted/model"}
    return RefineGuidelineConfig.model_validate(
        {
            "corpus": "c",
            "traces": "t",
            "run": "r",
            "generator": {"model": model, "engine": engine},
            "raters": [{"rater_id": "a", "model": model, "engine": engine}],
            "allow_one_rater": True,
            **more,
        }
    )


def test_a_generator_that_would_leave_no_room_to_embed_is_refused(ray_session: str) -> None:
    # The cluster of the tests has two CPUs.
    check_rooms(make_config(3))
    with pytest.raises(UserError, match=r"(?s)one embedding worker are up at once and need 2.25 CPU; .* has 2\n"):
        check_rooms(make_config(4))
    check_rooms(make_config(4, candidates={"kinds": ["instructions"]}))


def test_embedding_without_room_gives_up_and_says_what_it_needs(ray_session: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"gave up: embed critiques has not moved .* a worker needs 7 CPU"):
        embed_on_ray(["a sentence"], EmbeddingConfig(num_cpus=7), wait_s=3)
    assert 3 <= time.monotonic() - began < 60
