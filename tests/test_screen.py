"""The tinyBenchmarks screen: its estimates, what it may decide, and where it is shown."""

from pathlib import Path

import numpy as np
import pytest

from quantgate.components.benchmarks.anchors import anchored_benchmarks
from quantgate.components.evaluate.estimates import estimates, with_screen
from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.drops import DropTest, Task
from quantgate.components.evidence.judging import compare
from quantgate.components.evidence.looks import SCREEN_ALLOWANCE, error_share
from quantgate.components.evidence.margin import ABSOLUTE, RELATIVE, p_beyond, pairs
from quantgate.components.evidence.stopping import Stopping
from quantgate.components.gate.results_files import read_screens
from quantgate.components.policies.policy import UseCase, use_case_named
from quantgate.components.report.pages import write_report
from quantgate.components.report.screen import screen
from quantgate.components.run import records
from quantgate.components.run.artifacts import Model, Scores, TaskScore, Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.track.mlflow_rows import variant_rows
from quantgate.components.tracking.facts import RunFiles
from tests.support.anchored import fitted, record
from tests.support.answered import answers_of, candidate_of
from tests.support.decided import FACTS
from tests.support.reported import Page

TUTOR = use_case_named("math-tutoring-strict")
MODEL = Model(source="file:drawn", digest="d0", uri="", size_bytes=100)
RIGHT = 60
"""Of the 100 chosen items, those that the baseline gets right."""
LOOKS = 6


def baseline() -> Candidate:
    """A baseline that answered 1,000 items, of which the first 100 are the chosen ones."""
    scores = np.concatenate([np.repeat([1.0, 0.0], [RIGHT, 100 - RIGHT]), np.repeat([1.0, 0.0], [600, 300])])
    return candidate_of("bf16", {"gsm8k": answers_of("gsm8k", scores)})


def screened(lost: int, *, chosen: bool = True, looks: int = LOOKS) -> tuple[Scores, dict[str, Answers]]:
    """The scores and answers of a variant after the tiny stage that lost so many of the items."""
    after = np.repeat([0.0, 1.0, 0.0], [lost, RIGHT - lost, 100 - RIGHT])
    answers = {"gsm8k": answers_of("gsm8k", after)}
    scores = candidate_of("int8", answers, look=1, looks=looks).scores
    task = scores.tasks[0].model_copy(update={"chosen": chosen, "estimates": {"mean": float(after.mean())}})
    return scores.model_copy(update={"tasks": (task,), "stage": "tiny"}), answers


def stops(lost: int, *, chosen: bool = True) -> bool:
    rule = Stopping(TUTOR, baseline(), Weights(variant="int8", baseline_digest="d0"), 1)
    return rule.enough(*screened(lost, chosen=chosen))


def verdict(lost: int) -> Verdict:
    return decision(lost).verdicts[1]


def decision(lost: int) -> Decision:
    """The decision on a variant that was answered in the tiny stage only."""
    scores, answers = screened(lost)
    weights = Weights(variant="int8", baseline_digest="d0", size_bytes=100)
    return decide_candidates(MODEL, "drawn", TUTOR, [baseline(), Candidate(weights, scores, answers)])


def fewest_that_stop(*, chosen: bool) -> int:
    return next(lost for lost in range(RIGHT) if stops(lost, chosen=chosen))


def test_the_screen_stops_a_variant_only_beyond_the_limit_and_the_published_error() -> None:
    fewest = fewest_that_stop(chosen=True)
    share = 0.05 * error_share(1, LOOKS)
    edge = 0.02 + SCREEN_ALLOWANCE / 0.6
    before = np.repeat([1.0, 0.0], [RIGHT, 100 - RIGHT])

    def p(lost: int) -> float:
        return p_beyond([pairs(before, np.where(np.arange(100) < lost, 0.0, before))], RELATIVE, edge)

    assert p(fewest) <= share < p(fewest - 1)
    assert fewest_that_stop(chosen=False) < fewest, "a random sample needs no allowance"


def test_the_gate_agrees_with_the_stop_and_says_what_it_rests_on() -> None:
    fewest = fewest_that_stop(chosen=True)
    stopped, going_on = verdict(fewest), verdict(fewest - 1)
    assert (stopped.verdict, going_on.verdict) == ("reject", "inconclusive")
    assert stopped.sentence.endswith(
        "; it answered only the screen's 100 of 10,000 questions: tinyBenchmarks chose them, so they can reject a"
        " variant but not pass it, and each lower bound is reduced by the error of its estimates, 4 points."
    )
    (limit, _) = stopped.limits
    assert limit.what == "gsm8k"
    assert limit.lower is not None
    assert limit.lower > limit.limit
    assert limit.upper is None
    (limit, _) = going_on.limits
    assert limit.lower is not None
    assert limit.lower < limit.limit


@pytest.mark.parametrize("looks", [1, LOOKS])
def test_chosen_items_never_pass_a_variant(looks: int) -> None:
    both_weights = [Weights(variant=name, baseline_digest="d0", size_bytes=100) for name in ("bf16", "int8")]
    candidates = [Candidate(weights, *screened(0, looks=looks)) for weights in both_weights]
    same = decide_candidates(MODEL, "drawn", TUTOR, candidates).verdicts[1]
    assert same.verdict == "inconclusive"
    assert same.next_step == "Evaluate the full stage; until then keep serving the current model."
    assert "which does not show that it is over the limit of 2 %" in same.sentence
    assert [limit.outcome for limit in same.limits] == ["open", "open"]
    assert [limit.further_items for limit in same.limits] == [None, None]
    assert not stops(0)


def task(name: str, *, chosen: bool, before: float = 0.5) -> Task:
    scores = np.repeat([1.0, 0.0], [round(100 * before), round(100 * (1 - before))])
    return Task(name, pairs(scores, scores), before, before, informative=True, chosen=chosen)


def test_the_allowance_is_in_the_units_of_the_drop_and_only_for_chosen_items() -> None:
    both = (task("mmlu", chosen=True), task("ifeval", chosen=False, before=0.3))
    assert DropTest(both[:1], ABSOLUTE).allowance == 0.04
    assert DropTest(both[:1], RELATIVE).allowance == pytest.approx(0.08)
    assert DropTest(both, ABSOLUTE).allowance == 0.02
    assert DropTest(both, RELATIVE).allowance == pytest.approx(0.02 / 0.4)
    assert DropTest(both[1:], RELATIVE).allowance == 0.0
    assert DropTest((task("mmlu", chosen=True, before=0.0),), RELATIVE).p_beyond(0.02) == 1.0


def test_the_screen_ignores_a_limit_on_the_divergence() -> None:
    limited = UseCase(name="close", max_divergence={"gsm8k": 0.001})
    scores, answers = screened(RIGHT - 1)
    weights = Weights(variant="int8", baseline_digest="d0")
    row = decide_candidates(MODEL, "drawn", limited, [baseline(), Candidate(weights, scores, answers)]).verdicts[1]
    assert [limit.kind for limit in row.limits] == ["drop"]


def test_a_variant_that_the_screen_stopped_is_not_compared_with_others() -> None:
    weights = Weights(variant="int8", baseline_digest="d0")
    (stopped, sampled) = (Candidate(weights, *screened(30, chosen=chosen)) for chosen in (True, False))
    assert compare(use_case_named("general-chat"), [baseline(), stopped]) == ()
    assert len(compare(use_case_named("general-chat"), [baseline(), sampled])) == 1


def tiny_stage(folder: Path) -> tuple[Scores, list[float]]:
    """A tiny stage of GSM8K and a task without anchors, its records in `folder`, and the scores of the anchors."""
    anchors = anchored_benchmarks()["gsm8k"].anchors
    item_scores = [float(anchor % 3 == 0) for anchor in anchors]
    rows = [record(anchor, score) for anchor, score in zip(anchors, item_scores, strict=True)]
    of_gsm8k = [records.Record(**{**vars(row), "task": "gsm8k"}) for row in rows]
    of_ifeval = [records.Record(**{**vars(record(item, 1.0)), "task": "ifeval"}) for item in range(50)]
    records.write([*of_gsm8k, *of_ifeval], folder / "records.parquet")
    tasks = tuple(
        TaskScore(task=name, metric="acc", score=0.5, stderr=0, items=items, shots=5, chance=0, version="1")
        for name, items in (("gsm8k", 100), ("ifeval", 50))
    )
    return Scores(variant="int8", suite="openllm,instructions", stage="tiny", tasks=tasks), item_scores


def plan(folder: Path, **options: object) -> EvaluationPlan:
    values = {"variants": ("int8",), "suite": "openllm,instructions", "results": str(folder), "store": str(folder)}
    return EvaluationPlan.model_validate({**values, **options})


def test_without_parameters_the_screen_is_the_plain_mean_by_that_name(tmp_path: Path) -> None:
    scores, item_scores = tiny_stage(tmp_path)
    gsm8k, ifeval = with_screen(scores, plan(tmp_path), tmp_path / "records.parquet").tasks
    assert (gsm8k.chosen, gsm8k.estimates) == (True, {"mean": sum(item_scores) / 100})
    assert (ifeval.chosen, ifeval.estimates) == (False, {})


def test_with_a_limit_there_is_no_screen(tmp_path: Path) -> None:
    scores, _ = tiny_stage(tmp_path)
    assert with_screen(scores, plan(tmp_path, limit=200), tmp_path / "records.parquet") == scores


def test_a_failed_tiny_stage_has_no_screen(tmp_path: Path) -> None:
    failed = Scores(variant="int8", suite="openllm", stage="tiny", failure="The server ended.")
    assert with_screen(failed, plan(tmp_path), tmp_path / "no.parquet") == failed


def test_the_irt_estimates_have_their_names() -> None:
    estimated = estimates([float(anchor % 2) for anchor in range(100)], fitted("gsm8k"))
    assert list(estimated) == ["irt", "p_irt", "gp_irt"]
    assert estimated["irt"] == pytest.approx(0.5)
    assert estimated["gp_irt"] == pytest.approx((estimated["irt"] + estimated["p_irt"]) / 2)


def decision_with_screens() -> Decision:
    """A decision on a variant that the screen stopped, with the screens of both."""
    stopped = decision(40)
    of_baseline = TaskScore(
        task="gsm8k",
        metric="acc",
        score=0.6,
        stderr=0.05,
        items=100,
        shots=5,
        chance=0,
        version="1",
        chosen=True,
        estimates={"mean": 0.6, "irt": 0.58, "p_irt": 0.61, "gp_irt": 0.6},
    )
    tiny = Scores(variant="bf16", suite="drawn", stage="tiny", tasks=(of_baseline,))
    return stopped.model_copy(update={"screens": (tiny, stopped.scores[1])})


def test_the_report_shows_the_screen_of_each_variant_and_who_was_stopped(tmp_path: Path) -> None:
    html, markdown = write_report(decision_with_screens(), tmp_path)
    table = Page(html.read_text()).tables["screen"]
    assert table == [
        ["Variant", "Benchmark", "Questions", "Plain mean", "IRT", "p-IRT", "gp-IRT", "After the screen"],
        ["bf16", "gsm8k", "100", "0.600", "0.580", "0.610", "0.600", "went on"],
        ["int8", "gsm8k", "100", "0.200", "—", "—", "—", "stopped"],
    ]
    text = markdown.read_text()
    assert "| int8 | gsm8k | 100 | 0.200 | — | — | — | stopped |" in text
    assert "int8 was stopped here, after 100 of 10,000 questions." in text
    assert "over a limit by more than 4 points" in text
    assert "more answers could not have changed its verdict" not in text


def test_without_parameters_the_report_has_the_plain_mean_alone() -> None:
    table = screen(decision_with_screens().model_copy(update={"screens": (decision_with_screens().screens[1],)}))
    assert table is not None
    assert table.columns == ("Plain mean",)
    assert screen(decision(40)) is None


def test_mlflow_has_the_estimates_on_each_variants_run() -> None:
    rows = {row.name: row for row in variant_rows(decision_with_screens(), FACTS, RunFiles())}
    metrics = {name: value for name, value in rows["bf16"].metrics.items() if name.startswith("screen/")}
    assert metrics == {
        "screen/gsm8k/mean": 0.6,
        "screen/gsm8k/irt": 0.58,
        "screen/gsm8k/p_irt": 0.61,
        "screen/gsm8k/gp_irt": 0.6,
    }
    assert rows["int8"].metrics["screen/gsm8k/mean"] == pytest.approx(0.2)


def test_the_gate_reads_the_screens_from_the_runs_results(tmp_path: Path) -> None:
    run = RunResults(str(tmp_path))
    tiny, _ = screened(5)
    run.scores("int8", "tiny").write(tiny)
    run.scores("int4-g64", "tiny").write(screened(5, chosen=False)[0])
    last = [tiny.model_copy(update={"variant": name, "stage": "full"}) for name in ("bf16", "int8", "int4-g64")]
    assert read_screens(last, str(tmp_path)) == (tiny,)
