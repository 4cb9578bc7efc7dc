"""Which requests the proxy's plans befall."""

from collections import Counter

import pytest

from tests.fault_proxy import Seen, mixed


def befall(method: str, rates: dict[str, float], num: int = 20_000) -> Counter[str]:
    plan = mixed(rates, seed=3)
    return Counter(plan(Seen(n, 0.0, method, "/bucket/key")) for n in range(num))


def test_mixed_faults_befall_their_shares():
    found = befall("GET", {"500": 0.05, "reset": 0.1, "truncate": 0.02})
    shares = {fault: count / 20_000 for fault, count in found.items()}
    # Four standard errors of the largest share.
    assert shares == pytest.approx({"": 0.83, "500": 0.05, "reset": 0.1, "truncate": 0.02}, abs=0.0106)


def test_faults_befall_only_what_they_make_a_difference_to():
    rates = {"500": 0.2, "reset": 0.2, "lost": 0.2}
    assert set(befall("PUT", rates)) == {"", "500", "lost"}
    assert set(befall("GET", rates)) == {"", "500", "reset"}
    assert set(befall("HEAD", rates)) == {"", "500"}
