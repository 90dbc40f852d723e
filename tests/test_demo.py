"""The demo decides: its questions are enough for the limits of its policy, on both sides."""

import math

import numpy as np
import pytest

from quantgate.components.benchmarks.suites import suite_named
from quantgate.components.evidence import flips
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Model
from tests.support.answered import answers_of, candidate_of

DEMO = suite_named("demo")
MODEL = Model(source="drawn", digest="d0", uri="", size_bytes=100)


def drawn(variant: str, noise: float) -> Candidate:
    """Answers to the demo's questions whose log-odds are the baseline's, with this much noise."""
    by_task = {}
    for seed, task in enumerate(DEMO.tasks):
        source = np.random.default_rng(seed)
        odds = source.normal(0.7, 2.0, task.full)
        odds = odds + noise * source.normal(0, 1, task.full)
        logliks = [[-math.log1p(math.exp(-ratio)), -math.log1p(math.exp(ratio))] for ratio in odds.tolist()]
        by_task[task.task] = answers_of(task.task, (odds > 0).astype(float), logliks=logliks)
    return candidate_of(variant, by_task, chance=0.5)


@pytest.mark.slow(reason="bounds of 600 questions take seconds")
@pytest.mark.parametrize(("noise", "nats", "verdict"), [(0.7, 0.036, "monitor"), (2.2, 0.31, "reject")])
def test_small_divergences_pass_and_large_ones_are_rejected(noise: float, nats: float, verdict: str) -> None:
    baseline, variant = drawn("bf16", 0.0), drawn("int8", noise)
    for task, answered in variant.answers.items():
        divergence = flips.divergence(baseline.answers[task], answered)
        assert divergence is not None
        assert divergence.mean == pytest.approx(nats, rel=0.2)
    decision = decide_candidates(MODEL, "drawn", use_case_named("demo"), [baseline, variant])
    row = decision.verdicts[1]
    assert row.verdict == verdict
    for limit in row.limits:
        assert limit.lower is not None
        assert (limit.lower > limit.limit) is (limit.outcome == "exceeded"), "the bound and the test agree"


def test_the_demos_policy_is_for_its_suite() -> None:
    policy = use_case_named("demo")
    assert policy.suites == ["demo"]
    assert set(policy.required()) == {task.task for task in DEMO.tasks}
