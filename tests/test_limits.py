"""When a run ends early."""

from collections import Counter

import pytest

from judgetrace.config import STOPPED_EARLY_STATUS
from judgetrace.control import WorkCounts
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.limits import LimitsConfig, RunLimits
from judgetrace.unit_job import end_early

DONE = WorkCounts(
    Counter(accepted=70, failed=20, quarantined=10), Counter({"failed: away": 20}), 300, 4_000_000, 500_000
)
PRICED = EndpointConfig(base_url="http://localhost", input_price=0.5, output_price=2.0)


def reason(done=DONE, seconds=100.0, endpoint=None, **limits):
    found = RunLimits(LimitsConfig(**{"max_failed_rate": 1.0} | limits), endpoint).find_reason(done, seconds)
    return None if found is None else found.text


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, None),
        ({"max_failed_rate": 0.3}, None),
        ({"max_failed_rate": 0.29}, "30 of 100 units failed or were quarantined"),
        ({"max_output_tokens": 500_000}, "limits.max_output_tokens reached (500000 output tokens)"),
        ({"max_output_tokens": 500_001}, None),
        ({"max_seconds": 100}, "limits.max_seconds reached (100 s)"),
        ({"max_seconds": 101}, None),
    ],
)
def test_a_limit_ends_the_run_once_it_is_reached(limits, found):
    if found is None:
        assert reason(**limits) is None
    else:
        assert reason(**limits).startswith(found)


def test_a_budget_of_money_counts_the_endpoints_prices():
    # 4M prompt tokens at 0.5 a million and 0.5M output tokens at 2 a million: 2 + 1.
    assert RunLimits(LimitsConfig(), PRICED).cost(DONE) == pytest.approx(3.0)
    assert reason(endpoint=PRICED, max_cost=3.0) == "limits.max_cost reached (3.00)"
    assert reason(endpoint=PRICED, max_cost=3.01) is None


@pytest.mark.parametrize(
    ("limits", "process"), [({"max_output_tokens": 1}, 0), ({"max_seconds": 1}, 0), ({"max_failed_rate": 0.1}, 3)]
)
def test_a_spent_budget_ends_the_process_as_the_config_says_and_failures_do_not(limits, process):
    config = LimitsConfig(**{"max_failed_rate": 1.0, "early_status": 0} | limits)
    found = RunLimits(config).find_reason(DONE, 100.0)
    status = end_early(config, found.is_planned)
    # A job that calls this one is to see that it is not complete, whatever its process would end with.
    assert (int(status), status.of_process) == (STOPPED_EARLY_STATUS, process)


def test_few_units_do_not_make_a_failed_rate():
    few = WorkCounts(Counter(failed=49))
    assert reason(few, max_failed_rate=0.0) is None
    assert "50 of 50" in reason(WorkCounts(Counter(failed=50)), max_failed_rate=0.0)
