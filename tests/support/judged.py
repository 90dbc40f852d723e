"""Weights and scores for the gate's tests, and a decision on them."""

from quantgate.components.evidence.decision import decide
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Model, RowsOrigin, Scores, TaskScore, Weights
from quantgate.components.run.verdicts import Decision, Verdict

MODEL = Model(source="file:guide", digest="d0", uri="models/d0", size_bytes=6_400_000_000)
SIZES = {"bf16": 6_400_000_000, "int8": 3_200_000_000, "int4-g128": 1_800_000_000, "int4-g64": 2_000_000_000}


def task_score(task: str, score: float, chance: float = 0.0) -> TaskScore:
    return TaskScore(
        task=task, metric="acc", score=score, stderr=0.01, items=1000, shots=5, chance=chance, version="1.0"
    )


def origin_of(task: str) -> RowsOrigin:
    return RowsOrigin(task=task, where=f"{task}/test from a folder", sha256="01")


def scores_of(variant: str, by_task: dict[str, float], chance: float = 0.0) -> Scores:
    tasks = tuple(task_score(task, score, chance) for task, score in by_task.items())
    return Scores(variant=variant, suite="guide", stage="full", tasks=tasks, row_origins=tuple(map(origin_of, by_task)))


def weights_of(variant: str, failure: str = "") -> Weights:
    return Weights(variant=variant, baseline_digest="d0", size_bytes=SIZES[variant], failure=failure)


def decide_on(use_case: str, weights: list[Weights], scores: list[Scores]) -> Decision:
    return decide(MODEL, "guide", use_case_named(use_case), weights, scores)


def judge_pair(baseline: Scores, variant: Scores, use_case: str = "general-chat") -> Verdict:
    weights = [weights_of(baseline.variant), weights_of(variant.variant)]
    return decide_on(use_case, weights, [baseline, variant]).verdicts[1]
