"""Win rates, Bradley-Terry strengths, position bias and grades, on outcomes that are counted out."""

import math
from itertools import product

import pytest
from scipy.stats import binom

from quantgate.components.judging.arena import (
    ELO,
    Game,
    PositionBias,
    position_bias,
    share_of,
    standing,
    standings,
    strengths,
    win_rate_bounds,
)
from quantgate.components.judging.grade_scores import compared_grades, question_grade


def test_a_pair_is_won_only_if_both_orders_say_so() -> None:
    """The first verdict has the baseline as A, the second has it as B."""
    shares = {(one, other): share_of(one, other) for one, other in product("ABC", repeat=2)}
    assert {pair for pair, share in shares.items() if share == 1} == {("B", "A")}
    assert {pair for pair, share in shares.items() if share == 0} == {("A", "B")}
    assert {share for pair, share in shares.items() if pair not in {("B", "A"), ("A", "B")}} == {0.5}


def test_the_position_bias_counts_pairs_by_what_the_order_did() -> None:
    verdicts = [("A", "A")] * 9 + [("B", "B")] + [("A", "B"), ("B", "A"), ("C", "C"), ("C", "A")]
    assert position_bias(verdicts) == PositionBias(pairs=14, first_both=9, second_both=1, agree=3, p_value=22 / 1024)
    assert position_bias([("C", "C")]).p_value is None


def test_the_bounds_of_a_win_rate_without_ties_are_exact() -> None:
    """Clopper and Pearson's: 10 of 10 won leaves 0.05 ** (1 / 10) open."""
    lower, upper = win_rate_bounds([1.0] * 10)
    assert lower == pytest.approx(0.05**0.1, abs=1e-6)
    assert upper == 1.0


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
def test_a_bound_misses_the_true_win_rate_in_at_most_5_percent_of_20_questions(chance: float) -> None:
    missed = [0.0, 0.0]
    for won in range(21):
        lower, upper = win_rate_bounds([1.0] * won + [0.0] * (20 - won))
        missed[0] += binom.pmf(won, 20, chance) * (lower > chance)
        missed[1] += binom.pmf(won, 20, chance) * (upper < chance)
    assert max(missed) <= 0.05


def test_two_models_strengths_differ_by_the_log_of_their_odds() -> None:
    games = [Game("v", "b", 1.0)] * 7 + [Game("v", "b", 0.0)] * 2 + [Game("v", "b", 0.5)]
    assert strengths(games, "b") == {"b": 0.0, "v": pytest.approx(math.log(8 / 3), abs=1e-6)}


def test_strengths_add_up_along_a_chain_of_games() -> None:
    """With as many wins at each link the strengths are those of the links; the model without wins has a finite one."""
    chain = [Game("a", "b", 1.0)] * 3 + [Game("a", "b", 0.0)] + [Game("b", "c", 1.0)] * 3 + [Game("c", "b", 1.0)]
    found = strengths(chain, "c")
    link = math.log(3.5 / 1.5)
    assert found["b"] == pytest.approx(link, abs=1e-5)
    assert found["a"] == pytest.approx(2 * link, abs=1e-5)
    assert math.isfinite(strengths([Game("a", "b", 1.0)] * 50, "b")["a"])


def test_models_without_a_game_between_them_have_no_strengths() -> None:
    with pytest.raises(ValueError, match=r"No games connect \['c', 'd'\] with b"):
        strengths([Game("a", "b", 1.0), Game("c", "d", 1.0)], "b")


def test_a_standing_counts_and_bounds_what_was_judged() -> None:
    row = standing("int8", "all", [1.0] * 6 + [0.5] * 2 + [0.0] * 2 + [0.75], missing=3)
    assert (row.wins, row.ties, row.losses, row.mixed, row.missing, row.questions) == (6, 2, 2, 1, 3, 11)
    assert row.win_rate == pytest.approx(7.75 / 11)
    assert row.strength_lower is not None
    assert row.strength is not None
    assert row.strength_upper is not None
    assert row.strength_lower < row.strength < row.strength_upper
    assert row.lower == pytest.approx(1 / (1 + math.exp(-row.strength_lower / ELO)))


def test_better_and_worse_are_findings_only_beyond_the_bounds() -> None:
    findings = [standing("v", "all", [1.0] * won + [0.0] * (20 - won), 0).finding for won in (20, 15, 14, 6, 5, 0)]
    assert findings == ["better", "better", "open", "open", "worse", "worse"]


def test_all_wins_have_no_upper_bound_of_strength_and_nothing_judged_has_none_at_all() -> None:
    assert standing("v", "all", [1.0] * 5, 0).strength_upper is None
    empty = standing("v", "all", [], missing=4)
    assert (empty.win_rate, empty.lower, empty.strength, empty.missing, empty.finding) == (None, None, None, 4, "open")


def test_a_question_counts_in_its_category_and_a_missing_one_in_none() -> None:
    rows = standings("v", {"1": 1.0, "2": None, "3": 0.0}, {"1": "math", "2": "math", "3": "writing"})
    assert [(row.category, row.questions, row.missing) for row in rows] == [
        ("all", 2, 1),
        ("math", 1, 1),
        ("writing", 1, 0),
    ]
    assert [row.category for row in standings("v", {"1": 1.0}, {"1": "math"})] == ["all"]


def test_grades_are_compared_on_the_questions_that_both_models_have() -> None:
    before, after = {"1": 9.0, "2": 8.0, "3": None}, {"1": 7.0, "2": 8.0, "3": 1.0}
    (everything,) = compared_grades("v", before, after, dict.fromkeys(before, "math"))
    assert (everything.questions, everything.missing, everything.baseline, everything.drop) == (2, 1, 8.5, 1.0)


def test_a_drop_of_one_point_on_every_question_is_shown_by_80_and_not_by_10() -> None:
    for count, finding in ((80, "worse"), (10, "open")):
        before = {str(n): 8.0 + n % 2 for n in range(count)}
        after = {question: grade - 1 for question, grade in before.items()}
        (row,) = compared_grades("v", before, after, dict.fromkeys(before, "math"))
        assert row.finding == finding
        assert row.lower is not None
        assert row.upper is not None
        assert row.lower < 1.0 < row.upper


def test_a_turn_without_a_grade_leaves_the_question_without_one() -> None:
    assert (question_grade([8.0, 5.0]), question_grade([8.0, None]), question_grade([])) == (6.5, None, None)
