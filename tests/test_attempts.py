"""Judging again costs error: attempts on a base model are counted, and each has its share of the error."""

import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.search import expected_in
from quantgate.components.evidence.spending import attempt_share, describe_attempt, error_of, run_share
from quantgate.components.gate.counted import counted
from quantgate.components.report.story import certainty
from quantgate.components.report.terminal import terminal_matrix
from quantgate.components.run.attempts import (
    Attempt,
    AttemptRecord,
    CountedRun,
    Judgement,
    attempt_of,
    expected_attempt,
)
from quantgate.components.run.verdicts import Decision
from quantgate.pipelines.cli.app import app
from tests.support.gated import MODEL, gated, plan_of

RECORD = "attempts"


def run_of(number: int, run: int = 1, weights: str = "d8", evidence: str = "e", asked: str = "q") -> CountedRun:
    judgement = Judgement(policy="p", weights={"int8": weights}, evidence=evidence, asked=asked)
    return CountedRun(model="d0", use_case="chat", attempt=Attempt(number=number, run=run), judgement=judgement)


def numbers(decision: Decision) -> tuple[int, int]:
    assert decision.attempt
    return decision.attempt.number, decision.attempt.run


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "store" / RECORD).rglob("*.json"))


def test_attempt_k_may_use_6_by_pi_squared_k_squared_of_the_error() -> None:
    shares = [attempt_share(Attempt(number=number)) for number in (1, 2, 3, 10)]
    assert shares == pytest.approx([0.607927, 0.151982, 0.067547, 0.00607927], rel=1e-5)
    assert sum(attempt_share(Attempt(number=number)) for number in range(1, 100_000)) == pytest.approx(1, abs=1e-5)
    assert attempt_share(None) == run_share(None) == 1


def test_the_runs_of_an_attempt_share_its_error_and_the_first_gets_three_quarters() -> None:
    shares = [run_share(Attempt(number=7, run=run)) for run in (1, 2, 3)]
    assert shares == pytest.approx([0.75, 0.25 * 6 / math.pi**2, 0.25 * 6 / (4 * math.pi**2)])
    assert sum(run_share(Attempt(number=1, run=run)) for run in range(1, 100_000)) == pytest.approx(1, abs=1e-5)


def test_readers_learn_the_number_of_the_attempt_and_the_confidence_it_is_decided_at() -> None:
    assert describe_attempt(0.95, Attempt(number=1)) == "Attempt 1, decided at 97.72 % in place of 95 %"
    assert describe_attempt(0.95, Attempt(number=3)) == "Attempt 3, decided at 99.75 % in place of 95 %"
    assert describe_attempt(0.9, Attempt(number=1, run=2)) == "Attempt 1, run 2, decided at 99.08 % in place of 90 %"
    assert describe_attempt(0.95, Attempt(number=100)).endswith("decided at 99.99977 % in place of 95 %"), "never 100 %"
    assert error_of(0.95, None) == pytest.approx(0.05)


def test_the_same_answers_are_the_same_judgement_and_other_answers_or_weights_are_not() -> None:
    known = [run_of(1)]
    assert attempt_of([], run_of(1).judgement) == Attempt(number=1)
    assert attempt_of(known, run_of(1).judgement) == Attempt(number=1)
    assert attempt_of(known, run_of(1, evidence="more answers").judgement) == Attempt(number=1, run=2)
    assert attempt_of(known, run_of(1, weights="d9").judgement) == Attempt(number=2)
    other_policy = run_of(1).judgement.model_copy(update={"policy": "edited"})
    assert attempt_of(known, other_policy) == Attempt(number=2)
    both = [*known, run_of(1, 2, evidence="more answers"), run_of(2, weights="d9")]
    assert attempt_of(both, run_of(1, evidence="still more").judgement) == Attempt(number=1, run=3)
    assert attempt_of(both, run_of(1, weights="d10").judgement) == Attempt(number=3)


def test_the_next_number_is_larger_than_any_and_than_the_number_of_attempts() -> None:
    assert attempt_of([run_of(4)], run_of(1, weights="d9").judgement) == Attempt(number=5)
    twice = [run_of(1), run_of(1, weights="d9")]  # of two stores that did not know of each other
    assert attempt_of(twice, run_of(1, weights="d10").judgement) == Attempt(number=3)


def test_before_its_answers_are_there_a_run_expects_the_attempt_that_it_will_be() -> None:
    known = [run_of(1), run_of(2, weights="d9")]
    assert expected_attempt(known, "p", "q", {"int8": "d8"}) == Attempt(number=1), "the same questions again"
    assert expected_attempt(known, "p", "more questions", {"int8": "d8"}) == Attempt(number=1, run=2)
    assert expected_attempt(known, "p", "q", {"int8": "d10"}) == Attempt(number=3)
    assert expected_attempt(known, "another", "q", {"int8": "d8"}) == Attempt(number=3)
    assert expected_attempt(known, "p", "more questions", {}) == Attempt(number=3), "the weights are not known yet"


def test_a_run_that_is_repeated_is_no_new_attempt_and_has_the_same_verdict(tmp_path: Path) -> None:
    first = gated(plan_of(tmp_path, "first"))
    again, retried = gated(plan_of(tmp_path, "second")), gated(plan_of(tmp_path, "first"))
    assert numbers(first) == numbers(again) == numbers(retried) == (1, 1)
    assert again.verdicts == first.verdicts == retried.verdicts
    assert len(files_of(tmp_path)) == 1


def test_more_questions_to_the_same_weights_are_another_run_of_the_attempt(tmp_path: Path) -> None:
    first = gated(plan_of(tmp_path, "first"), items=500)
    more = gated(plan_of(tmp_path, "more", asked="more questions"), items=2000)
    assert (numbers(first), numbers(more)) == ((1, 1), (1, 2))
    assert first.verdicts[1].confidence == pytest.approx(1 - 0.05 * 0.607927 * 0.75)
    assert more.verdicts[1].confidence == pytest.approx(1 - 0.05 * 0.607927 * 0.25 * 0.607927)


def test_weights_that_were_quantized_again_are_a_new_attempt_even_after_a_rejection(tmp_path: Path) -> None:
    rejected = gated(plan_of(tmp_path, "first"), flips=(300, 0))
    assert (numbers(rejected), rejected.verdicts[1].verdict) == ((1, 1), "reject")
    assert "with 96.25 % confidence a drop of at least" in rejected.verdicts[1].sentence, "the attempt's own error"
    second = gated(plan_of(tmp_path, "second"), weights="d9")
    assert numbers(second) == (2, 1)
    assert second.verdicts[1].confidence == pytest.approx(1 - 0.05 * 0.151982 * 0.75)
    assert numbers(gated(plan_of(tmp_path, "third"), weights="d10")) == (3, 1)


def test_the_advice_after_an_inconclusive_verdict_counts_what_the_next_run_may_use(tmp_path: Path) -> None:
    row = gated(plan_of(tmp_path, "first"), items=400, flips=(20, 20)).verdicts[1]
    assert row.verdict == "inconclusive"
    (limit,) = [limit for limit in row.limits if limit.what == "average"]
    needed = 400 + (limit.further_items or 0)
    passed = gated(
        plan_of(tmp_path, "more", asked="more"), items=needed - needed % 10, flips=(needed // 20,) * 2
    ).verdicts[1]
    assert [limit.outcome for limit in passed.limits if limit.what == "average"] == ["passed"]


def test_two_use_cases_and_two_base_models_have_separate_counts(tmp_path: Path) -> None:
    gated(plan_of(tmp_path, "first"))
    policy = "name: ours\nmax_average_drop: 5 %\n"
    assert numbers(gated(plan_of(tmp_path, "ours", policy=policy), weights="d9")) == (1, 1)
    retrained = MODEL.model_copy(update={"digest": "d1"})
    assert numbers(gated(plan_of(tmp_path, "retrained"), weights="d9", model=retrained)) == (1, 1)
    assert len(files_of(tmp_path)) == 3


def test_an_edited_policy_of_the_same_name_goes_on_with_the_count(tmp_path: Path) -> None:
    limits = "name: ours\nmax_average_drop: {}\n"
    assert numbers(gated(plan_of(tmp_path, "first", policy=limits.format("4 %")))) == (1, 1)
    assert numbers(gated(plan_of(tmp_path, "second", policy=limits.format("4.5 %")))) == (2, 1)


def test_a_decision_without_evidence_is_no_attempt(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "first")
    judgement = Judgement(policy="p", weights={}, evidence="e")
    nothing = gated(plan).model_copy(update={"attempt": None})
    record = AttemptRecord(plan.store, "d7", "chat")
    assert counted(lambda _: nothing, record, judgement, plan.results).attempt is None
    assert record.read() == ()


@pytest.mark.fault(
    "verdicts", "a file of the record of attempts is damaged", "nothing is judged, and the file is named"
)
@pytest.mark.parametrize("damage", [b"", b'{"model": "d0"', b"\xff\xfe", b'{"attempt": {"number": 0}}'])
def test_a_damaged_record_is_an_error_and_never_the_first_attempt(tmp_path: Path, damage: bytes) -> None:
    gated(plan_of(tmp_path, "first"))
    (file,) = files_of(tmp_path)
    file.write_bytes(damage)
    with pytest.raises(PrerequisiteError, match=r"The record of attempts .*1\.json is damaged: .* Nothing was judged"):
        gated(plan_of(tmp_path, "second"), weights="d9")
    assert not (tmp_path / "second" / "decision.json").exists()


def test_a_record_that_was_copied_from_another_model_is_an_error(tmp_path: Path) -> None:
    gated(plan_of(tmp_path, "first"))
    (file,) = files_of(tmp_path)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"model": "d1"}))
    with pytest.raises(PrerequisiteError, match="it counts general-chat of the model d1"):
        gated(plan_of(tmp_path, "second"), weights="d9")


def test_runs_at_the_same_time_get_different_numbers_and_are_decided_with_them(tmp_path: Path) -> None:
    decision = gated(plan_of(tmp_path, "first"))
    record = AttemptRecord(str(tmp_path / "shared"), "d0", "chat")

    def judged(place: int) -> int:
        judgement = Judgement(policy="p", weights={"int8": f"d{place}"}, evidence="e")
        answer = counted(lambda attempt: decision.model_copy(update={"attempt": attempt}), record, judgement, "")
        return numbers(answer)[0]

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(judged, range(8))) == list(range(1, 9))
    assert sorted(run.attempt.number for run in record.read()) == list(range(1, 9))


def test_early_stopping_uses_the_share_that_the_gate_will(tmp_path: Path) -> None:
    plan, weights = plan_of(tmp_path, "first"), {"int8": "d8"}
    assert expected_in(plan, "d0", weights) == Attempt(number=1)
    gated(plan)
    assert expected_in(plan, "d0", weights) == Attempt(number=1), "a repeated run"
    assert expected_in(plan.model_copy(update={"asked": "more"}), "d0", weights) == Attempt(number=1, run=2)
    assert expected_in(plan, "d0", {"int8": "d9"}) == Attempt(number=2)


def test_report_and_terminal_say_which_attempt_it_is_and_what_it_is_decided_at(tmp_path: Path) -> None:
    gated(plan_of(tmp_path, "first"))
    decision = gated(plan_of(tmp_path, "second"), weights="d9")
    sentence = "Attempt 2, decided at 99.43 % in place of 95 %"
    assert certainty(decision).promise.startswith(f"{sentence}: all attempts on this base model for this use case,")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_matrix(decision))
    assert f"{sentence}." in " ".join(console.export_text().split())
    uncounted = decision.model_copy(update={"attempt": None})
    assert certainty(uncounted).promise.startswith("Each upper bound holds with")


@pytest.mark.slow
def test_saved_results_are_judged_as_the_attempt_that_the_user_names(tmp_path: Path) -> None:
    gated(plan_of(tmp_path, "first"))
    folders = [str(tmp_path / "first" / "variants" / name) for name in ("bf16", "int8")]
    command = ["gate", "--baseline", folders[0], "--variant", folders[1]]
    uncounted = CliRunner().invoke(app, command)
    assert "Attempt" not in uncounted.stdout
    assert "with 95 % confidence" in " ".join(uncounted.stdout.split())
    third = CliRunner().invoke(app, [*command, "--attempt", "3"])
    assert "Attempt 3, decided at 99.75 % in place of 95 %." in " ".join(third.stdout.split())
    assert "with 99.75 % confidence" in " ".join(third.stdout.split())
    continued = CliRunner().invoke(app, [*command, "--attempt", "3", "--attempt-run", "2"])
    assert "Attempt 3, run 2, decided at 99.95 % in place of 95 %." in " ".join(continued.stdout.split())
    alone = CliRunner().invoke(app, [*command, "--attempt-run", "2"])
    assert (alone.exit_code, "--attempt-run needs --attempt" in alone.output + str(alone.exception)) != (0, False)
