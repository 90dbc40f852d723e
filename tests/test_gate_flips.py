"""Flips, divergence and perplexity, against values that can be worked out by hand or by scipy."""

import numpy as np
import pytest
from scipy.special import rel_entr, softmax
from scipy.stats import binomtest

from components.evidence.flips import Flips, Mean, divergence, flips, mean_of, perplexity_ratio
from tests.support.answered import answers_of, pair_of


def test_flips_are_counted_in_both_directions_at_an_unchanged_score() -> None:
    found = flips(*pair_of(15, 15, 50, 20))
    assert (found.items, found.lost, found.gained, found.rate) == (100, 15, 15, 0.3)
    assert found.p == 1.0


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
    choices = [int(each) for each in source.integers(2, 6, 50)]
    before, after = ([source.normal(-20, 3, each).tolist() for each in choices] for _ in range(2))
    scores = np.ones(50)
    found = divergence(answers_of("mmlu", scores, logliks=before), answers_of("mmlu", scores, logliks=after))
    each = [rel_entr(softmax(one), softmax(other)).sum() for one, other in zip(before, after, strict=True)]
    assert found is not None
    assert found.mean == pytest.approx(np.mean(each))
    assert found.error == pytest.approx(np.std(each, ddof=1) / np.sqrt(50), rel=1e-9)


def test_the_same_choices_do_not_diverge() -> None:
    found = answers_of("mmlu", pair_of(1, 2, 30, 40)[0])
    same = divergence(found, found)
    assert same is not None
    assert (same.mean, same.error) == (0.0, 0.0)
    assert same.p_within(1.0) == 0.5, "items that do not differ say nothing of others"


def test_generated_answers_have_no_choices_to_diverge() -> None:
    found = answers_of("gsm8k", np.ones(3), logliks=[[], [], []])
    assert divergence(found, found) is None
    assert perplexity_ratio(found, found) is None


def test_a_perplexity_ratio_weighs_documents_by_their_words() -> None:
    words = np.array([100.0, 300.0])
    before = answers_of("wikitext", np.array([-200.0, -600.0]), units=words)
    after = answers_of("wikitext", np.array([-210.0, -600.0]), units=words)
    found = perplexity_ratio(before, after)
    assert found is not None
    assert found.mean == pytest.approx(10 / 400)


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
    found = Mean(0.03, 0.01, 20)
    assert found.p_within(found.upper(0.05)) == pytest.approx(0.05)
    assert found.p_beyond(found.lower(0.05)) == pytest.approx(0.05)
