"""Flips, divergence and perplexity, compared with values computed by hand or by scipy."""

import numpy as np
import pytest
from scipy.special import rel_entr, softmax
from scipy.stats import binomtest

from quantgate.components.evidence.flips import Flips, Mean, divergence, flips, mean_of, perplexity_ratio
from tests.support.answered import answers_of, pair_of


def test_flips_are_counted_in_both_directions_at_an_unchanged_score() -> None:
    counts = flips(*pair_of(15, 15, 50, 20))
    assert (counts.items, counts.lost, counts.gained, counts.rate) == (100, 15, 15, 0.3)
    assert counts.p == 1.0


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (9, 2), (40, 41), (300, 200)])
def test_mcnemars_p_value_is_exact(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert Flips(1000, lost, gained).p == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("flipped", [0, 1, 30, 100])
def test_the_flip_rate_has_the_clopper_pearson_interval(flipped: int) -> None:
    expected = binomtest(flipped, 100).proportion_ci(0.95)
    assert Flips(100, flipped, 0).interval(0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_divergence_is_the_mean_over_the_items() -> None:
    source = np.random.default_rng(0)
    choices = [int(number) for number in source.integers(2, 6, 50)]
    before, after = ([source.normal(-20, 3, number).tolist() for number in choices] for _ in range(2))
    scores = np.ones(50)
    mean = divergence(answers_of("mmlu", scores, logliks=before), answers_of("mmlu", scores, logliks=after))
    divergences = [rel_entr(softmax(one), softmax(other)).sum() for one, other in zip(before, after, strict=True)]
    assert mean is not None
    assert mean.mean == pytest.approx(np.mean(divergences))
    assert mean.error == pytest.approx(np.std(divergences, ddof=1) / np.sqrt(50), rel=1e-9)


def test_the_same_choices_do_not_diverge() -> None:
    answers = answers_of("mmlu", pair_of(1, 2, 30, 40)[0])
    same = divergence(answers, answers)
    assert same is not None
    assert (same.mean, same.error) == (0.0, 0.0)
    assert same.p_within(1.0) == 0.5, "items that do not differ say nothing of others"


def test_generated_answers_have_no_choices_to_diverge() -> None:
    answers = answers_of("gsm8k", np.ones(3), logliks=[[], [], []])
    assert divergence(answers, answers) is None
    assert perplexity_ratio(answers, answers) is None


def test_a_perplexity_ratio_weighs_documents_by_their_words() -> None:
    words = np.array([100.0, 300.0])
    before = answers_of("wikitext", np.array([-200.0, -600.0]), units=words)
    after = answers_of("wikitext", np.array([-210.0, -600.0]), units=words)
    ratio = perplexity_ratio(before, after)
    assert ratio is not None
    assert ratio.mean == pytest.approx(10 / 400)


def test_a_mean_over_clusters_has_the_error_of_the_clusters() -> None:
    source = np.random.default_rng(1)
    values = np.repeat(source.normal(0, 1, 40), 5)
    alone = mean_of(values[::5], np.ones(40), None)
    together = mean_of(values, np.ones(200), np.repeat(np.arange(40), 5))
    assert together.mean == pytest.approx(alone.mean)
    assert together.error == pytest.approx(alone.error)
    assert together.freedom == pytest.approx(39)
    assert mean_of(values, np.ones(200), None).error < 0.5 * alone.error


def test_a_mean_at_its_bound_has_a_p_value_of_alpha() -> None:
    mean = Mean(0.03, 0.01, 20)
    assert mean.p_within(mean.upper(0.05)) == pytest.approx(0.05)
    assert mean.p_beyond(mean.lower(0.05)) == pytest.approx(0.05)
