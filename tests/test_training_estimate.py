"""Estimates of training.estimate by hand, and against the papers' own figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from judgetrace.training.estimate import (
    GPUS,
    ModelShape,
    Sharing,
    WorkerPass,
    count_kept,
    estimate_activations,
    estimate_flops,
    estimate_hours,
    estimate_memory,
)

SMALL = ModelShape(
    num_parameters=1000,
    num_trained=1000,
    num_layers=3,
    hidden=10,
    query_width=12,
    intermediate=20,
    is_gated=True,
    vocabulary=50,
)
NOTHING = WorkerPass(num_examples=0, num_tokens=0, num_answer_tokens=0, number_bytes=2, recomputes=False)


@pytest.mark.parametrize(("stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.88)])
def test_states_of_7_5_billion_parameters_on_64_gpus_are_those_of_the_zero_paper(stage, gigabytes):
    # Rajbhandari et al. 2020, figure 1: K = 12, 7.5 billion parameters, 64 GPUs.
    shape = replace(SMALL, num_parameters=7_500_000_000, num_trained=7_500_000_000)
    memory = estimate_memory(shape, Sharing(stage), 64, NOTHING)
    assert memory.training / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_frozen_parameters_have_no_gradients_and_no_optimizer_states():
    memory = estimate_memory(replace(SMALL, num_trained=100), Sharing(1), 2, NOTHING)
    assert (memory.parameters, memory.gradients, memory.optimizer) == (2000, 200, 600)


def test_frozen_parameters_are_divided_by_the_workers_at_stage_3():
    memory = estimate_memory(replace(SMALL, num_trained=100), Sharing(3), 2, NOTHING)
    assert (memory.parameters, memory.gradients, memory.optimizer) == (1000, 100, 600)


def test_offloading_moves_states_into_main_memory():
    memory = estimate_memory(SMALL, Sharing(2, offloads_optimizer=True), 4, NOTHING)
    assert (memory.parameters, memory.gradients, memory.optimizer) == (2000, 0, 0)
    assert memory.offloaded == (12 + 2) * 1000 / 4
    memory = estimate_memory(SMALL, Sharing(3, offloads_optimizer=True, offloads_parameters=True), 4, NOTHING)
    assert (memory.training, memory.offloaded) == (0, (12 + 2 + 2) * 1000 / 4)


def test_every_worker_holds_the_whole_base_before_it_is_shared_out():
    # 8 billion parameters in bf16, all but 40 million frozen, on 64 GPUs: of 16 GB each keeps 0.25 GB, 0.08/64 GB of
    # gradients and 12 bytes for each trained one of its share; offloaded it keeps nothing.
    shape = replace(SMALL, num_parameters=8_000_000_000, num_trained=40_000_000)
    memory = estimate_memory(shape, Sharing(3), 64, NOTHING)
    assert memory.training == (16e9 + 0.08e9 + 0.48e9) / 64
    assert (memory.whole_base, memory.peak) == (16e9, 16e9)
    assert estimate_memory(shape, Sharing(3, True, True), 64, NOTHING).peak == 16e9
    # 0.08 GB of gradients and 0.48/64 GB of optimizer states stand beside the whole base in training, too.
    assert estimate_memory(shape, Sharing(1), 64, NOTHING).peak == 16e9 + 0.08e9 + 0.48e9 / 64
    assert estimate_memory(shape, Sharing(3), 64, replace(NOTHING, number_bytes=4)).peak == 32e9


def test_in_fp32_stage_3_needs_no_second_copy_of_the_parameters():
    work = replace(NOTHING, number_bytes=4)
    assert estimate_memory(SMALL, Sharing(1), 2, work).optimizer == 12 * 1000 / 2
    assert estimate_memory(SMALL, Sharing(3), 2, work).optimizer == 8 * 1000 / 2


def test_buckets_are_taken_whole_on_a_gpu_and_as_far_as_they_are_written_in_main_memory():
    sharing = Sharing(1, bucket_numbers=5000)
    assert estimate_memory(SMALL, sharing, 2, NOTHING).buckets == 2 * 5000
    assert estimate_memory(SMALL, sharing, 2, replace(NOTHING, number_bytes=4)).buckets == 4 * 1000


def test_a_gpt_keeps_what_korthikanti_et_al_count():
    # 34 bytes a token and hidden number, of which two dropout masks are one byte each; the rest has 16 bits.
    gpt = replace(SMALL, hidden=100, query_width=100, intermediate=400, is_gated=False)
    assert 2 * count_kept(gpt) == (34 - 2) * 100


def test_activations_by_hand():
    work = WorkerPass(num_examples=2, num_tokens=7, num_answer_tokens=3, number_bytes=2, recomputes=False)
    kept = 4 * 10 + 4 * 12 + 4 * 20
    assert estimate_activations(SMALL, work) == 2 * (2 * 7) * 3 * kept
    # Of each of three layers its input, and one layer at a time as a whole.
    assert estimate_activations(SMALL, replace(work, recomputes=True)) == 2 * (2 * 7) * (3 * 10 + kept)
    assert estimate_memory(SMALL, Sharing(1), 1, work).logits == 12 * (2 * 3) * 50


def test_operations_are_6_a_parameter_and_token_and_4_where_most_are_frozen():
    assert estimate_flops(SMALL, 7, recomputes=False) == 6 * 1000 * 7
    assert estimate_flops(SMALL, 7, recomputes=True) == 8 * 1000 * 7
    assert estimate_flops(replace(SMALL, num_trained=0), 7, recomputes=False) == 4 * 1000 * 7
    assert estimate_flops(replace(SMALL, num_trained=0), 7, recomputes=True) == 6 * 1000 * 7


def test_hours_by_hand():
    a100 = next(gpu for gpu in GPUS if gpu.name.startswith("A100"))
    # 8 GPUs at 40% of 312 TFLOPS for two hours.
    assert estimate_hours(2 * 3600 * 8 * 0.4 * 312e12, a100, 8) == pytest.approx(2)
