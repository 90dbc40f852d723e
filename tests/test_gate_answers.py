"""What must hold before any number: the same items with the same prompts, none of them cut."""

from typing import Any

import numpy as np
import pyarrow
import pytest

from quantgate.components.evidence.answers import fault
from quantgate.components.evidence.candidate import candidate
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Model
from quantgate.components.run.prompt_settings import PromptSettings
from tests.support.answered import answers_of, candidate_of, pair_of

NAMES = [str(place) for place in range(100)]
SCORES = pair_of(5, 5, 60, 30)
MODEL = Model(source="file:drawn", digest="d0", uri="", size_bytes=100)


def sentence(baseline: dict[str, Any] | None = None, **variant: Any) -> str:
    """What the gate says of a variant whose records differ in these columns; "" when it judges it."""
    pair = [
        candidate_of("bf16", {"mmlu": answers_of("mmlu", SCORES[0], **(baseline or {}))}),
        candidate_of("int8", {"mmlu": answers_of("mmlu", SCORES[1], **variant)}),
    ]
    verdict = decide_candidates(MODEL, "drawn", use_case_named("general-chat"), pair).verdicts[1]
    return verdict.sentence if verdict.verdict in ("not_comparable", "failed") else ""


def changed(values: list[str], *places: int) -> list[str]:
    return [f"{value}!" if place in places else value for place, value in enumerate(values)]


def test_answers_to_the_same_questions_are_judged_in_any_order() -> None:
    mixed = np.random.default_rng(0).permutation(100)
    columns = {name: [NAMES[place] for place in mixed] for name in ("item_hash", "prompt_hash")}
    pair = [
        candidate_of("bf16", {"mmlu": answers_of("mmlu", SCORES[0])}),
        candidate_of("int8", {"mmlu": answers_of("mmlu", SCORES[1][mixed], item_id=list(mixed), **columns)}),
    ]
    verdict = decide_candidates(MODEL, "drawn", use_case_named("general-chat"), pair).verdicts[1]
    assert (verdict.tasks[0].lost, verdict.tasks[0].gained) == (5, 5)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"item_id": [0, 1, *range(3, 100), 500]}, "it answered items that the baseline did not: 500"),
        ({"item_hash": changed(NAMES, 7)}, "its items have other content than the baseline's: 7"),
        (
            {"prompt_hash": changed(NAMES, *range(40, 60))},
            "its prompts have other tokens than the baseline's: 40, 41, 42 (20 in all)",
        ),
        ({"truncated": [place == 9 for place in range(100)]}, "its prompts were truncated: 9"),
    ],
)
def test_a_mismatch_is_not_comparable_and_names_the_first_items(columns: dict[str, Any], expected: str) -> None:
    assert sentence(**columns) == f"Not comparable with the baseline: on mmlu {expected}."


def test_a_truncated_baseline_is_not_comparable() -> None:
    cut = {"truncated": [place in (3, 4) for place in range(100)]}
    assert sentence(cut).endswith("on mmlu the baseline's prompts were truncated: 3, 4.")


def test_missing_items_are_named() -> None:
    baseline = candidate_of("bf16", {"mmlu": answers_of("mmlu", SCORES[0])})
    fewer = candidate_of("int8", {"mmlu": answers_of("mmlu", SCORES[1][:96])})
    same_count = fewer.scores.model_copy(
        update={"tasks": tuple(task_score.model_copy(update={"items": 100}) for task_score in fewer.scores.tasks)}
    )
    variant = type(fewer)(fewer.weights, same_count, fewer.answers)
    verdict = decide_candidates(MODEL, "drawn", use_case_named("general-chat"), [baseline, variant]).verdicts[1]
    assert verdict.verdict == "not_comparable"
    assert verdict.sentence.endswith("on mmlu it did not answer items that the baseline did: 96, 97, 98 (4 in all).")


def test_an_item_without_a_cluster_is_its_own_cluster() -> None:
    clusters = answers_of("mine", SCORES[0], ["unit 1"] * 40 + [""] * 60).clusters
    assert clusters is not None
    assert len(set(clusters)) == 1 + 60
    assert len(set(clusters[:40])) in (1, 40), "the clustered ones are sorted by their ids"
    assert answers_of("mine", SCORES[0], [""] * 100).clusters is None


def test_items_of_two_clusters_may_have_the_same_number() -> None:
    clusters = ["algebra"] * 50 + ["law"] * 50
    ids = [*range(50), *range(50)]
    assert fault(answers_of("mmlu", SCORES[0], clusters, item_id=ids)) == ""
    assert fault(answers_of("mmlu", SCORES[0], item_id=ids)) == "mmlu has duplicate items: 0, 1, 10 (50 in all)"


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.5, 1.5])
def test_a_missing_score_is_a_fault(score: float) -> None:
    scores = SCORES[0].copy()
    scores[[3, 8]] = score
    assert fault(answers_of("mmlu", scores)) == "mmlu has scores outside 0 to 1: 3, 8"


def test_scores_that_contradict_the_answers_are_refused() -> None:
    baseline = candidate_of("bf16", {"mmlu": answers_of("mmlu", SCORES[0])})
    contradicting = answers_of("mmlu", 1 - SCORES[0])
    refused = candidate(baseline.weights, baseline.scores, "drawn", {"mmlu": contradicting})
    assert refused.failure == (
        "bf16 scored 0.650000 on mmlu, its answers 0.350000: the two come from different evaluations."
    )


def test_different_generation_settings_are_not_comparable() -> None:
    pair = [
        candidate_of(name, {"mmlu": answers_of("mmlu", scores)})
        for name, scores in zip(("bf16", "int8"), SCORES, strict=True)
    ]
    tasks = tuple(
        task_score.model_copy(update={"settings": PromptSettings(generation=({"temperature": 1},))})
        for task_score in pair[1].scores.tasks
    )
    warm = type(pair[1])(pair[1].weights, pair[1].scores.model_copy(update={"tasks": tasks}), pair[1].answers)
    verdict = decide_candidates(MODEL, "drawn", use_case_named("general-chat"), [pair[0], warm]).verdicts[1]
    difference = "on mmlu its prompt settings are {\"temperature\": 1}, the baseline's are lm-eval's defaults."
    assert verdict.sentence.endswith(difference)


@pytest.mark.parametrize("column", ["item_hash", "prompt_hash", "truncated"])
def test_a_column_with_missing_values_is_a_fault(column: str) -> None:
    holes = answers_of("mmlu", SCORES[0], **{column: pyarrow.array([None] * 100, pyarrow.string())})
    assert fault(holes) == f"mmlu has items without {column}"


def test_scores_and_answers_need_each_other() -> None:
    complete = candidate_of("bf16", {"mmlu": answers_of("mmlu", SCORES[0])})
    no_answers = candidate(complete.weights, complete.scores, "drawn", {})
    assert no_answers.failure == "bf16 has a score for mmlu, but no answers."
    extra_answers = candidate(
        complete.weights, complete.scores, "drawn", {**complete.answers, "law": complete.answers["mmlu"]}
    )
    assert extra_answers.failure == "bf16 has answers for law, but no score."
