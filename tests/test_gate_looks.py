"""Interim looks: their shares of the items and of the error probability, and when a variant stops early."""

from itertools import pairwise

import numpy as np
import pytest

from quantgate.components.benchmarks.suites import FULL, TINY, suite_named
from quantgate.components.evidence.looks import error_share, look_shares
from quantgate.components.evidence.stopping import Stopping
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Weights
from tests.support.answered import answers_of, candidate_of, pair_of


@pytest.mark.parametrize(("tiny", "full"), [(100, 14_042), (100, 1319), (100, 600), (100, 164), (100, 120), (100, 100)])
def test_each_look_has_twice_the_items_of_the_previous_one_and_the_last_has_all(tiny: int, full: int) -> None:
    shares = look_shares(tiny, full)
    assert shares[-1] == 1.0
    assert all(later == pytest.approx(2 * earlier) for earlier, later in pairwise(shares[:-1]))
    assert len(shares) == 1 or shares[0] == tiny / full


@pytest.mark.parametrize("looks", range(1, 10))
def test_all_looks_together_keep_the_promised_error_rate(looks: int) -> None:
    shares = [error_share(look, looks) for look in range(1, looks + 1)]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0
    assert looks == 1 or shares[-1] == 0.75


def test_the_suites_looks_begin_with_the_tiny_stage_and_end_with_the_full_one() -> None:
    suite = suite_named("demo")
    for task in suite.tasks:
        items = [task.items(FULL, share) for share in suite.looks]
        assert items[0] >= task.items(TINY)
        assert items == sorted(items)
        assert items[-1] == task.full


def stopping(variants: int = 1, use_case: str = "general-chat") -> Stopping:
    baseline = candidate_of("bf16", {"mmlu": answers_of("mmlu", pair_of(0, 0, 6000, 4000)[0])})
    weights = Weights(variant="int8", baseline_digest="d0")
    return Stopping(use_case_named(use_case), baseline, weights, variants)


def enough(lost: int, gained: int, look: int, items: int = 4000, variants: int = 1, prompt: str = "") -> bool:
    """Whether the variant stops at this look; the baseline is right on half of the items."""
    places = np.concatenate([np.arange(items // 2), 6000 + np.arange(items // 2)])
    after = np.repeat([0.0, 1.0, 1.0, 0.0], [lost, items // 2 - lost, gained, items // 2 - gained])
    names = [str(place) for place in places]
    answers = answers_of(
        "mmlu", after, item_id=list(places), item_hash=names, prompt_hash=[prompt or name for name in names]
    )
    return stopping(variants).enough(
        candidate_of("int8", {"mmlu": answers}, look=look, looks=5).scores, {"mmlu": answers}
    )


def test_after_the_tiny_stage_a_variant_is_stopped_only_to_reject_it() -> None:
    assert enough(300, 20, look=1)
    assert not enough(0, 0, look=1)
    assert enough(0, 0, look=2)


def test_a_variant_continues_while_its_limits_are_undecided() -> None:
    assert not enough(110, 10, look=3)
    assert not enough(30, 20, look=3, items=200)


def test_a_variant_continues_while_a_better_band_is_possible() -> None:
    assert not enough(15, 5, look=3), "surely under 3 %, but under 1 % may still be shown"
    assert enough(38, 0, look=4), "surely under 3 % and surely not under 1 %"


@pytest.mark.slow
def test_several_variants_need_stronger_evidence_to_stop() -> None:
    fates = [[enough(lost, 0, look=2, variants=many) for many in (1, 50)] for lost in range(40)]
    assert any(alone and not together for alone, together in fates)
    assert not any(together and not alone for alone, together in fates)


def test_answers_that_cannot_be_compared_never_stop_a_variant() -> None:
    assert not enough(300, 20, look=1, prompt="another")
