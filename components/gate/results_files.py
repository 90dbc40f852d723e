"""The gate's files in the run's results: read the answers, write the flips, copy an earlier run's decision."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import BASELINES
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.load_results import LoadTest
from quantgate.components.run.results import AGAIN, TINY, RunResults
from quantgate.components.storage.hashing import sha256_of

if TYPE_CHECKING:
    from quantgate.components.evidence.answers import Answers
    from quantgate.components.run.records import Record
    from quantgate.components.run.verdicts import Flip


def write_flips(all_scores: Sequence[Scores], results: str) -> "dict[str, list[Flip]]":
    """Write each variant's flips from the baseline to the run's results, and return them by variant."""
    from quantgate.components.gate import flipped_items
    from quantgate.components.run import records

    run, flips = RunResults(results), {}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.parquet"

        def read(scores: Scores) -> "list[Record]":
            exists = scores.records and run.records(scores.variant, scores.stage).get(file)
            return records.read(file) if exists else []

        baseline = next((read(scores) for scores in all_scores if scores.variant in BASELINES), [])
        for scores in all_scores:
            if scores.variant not in BASELINES and scores.records:
                flips[scores.variant] = flipped_items.flips(baseline, read(scores))
                table = json.dumps(flipped_items.columns(flips[scores.variant]), ensure_ascii=False)
                run.flips(scores.variant).put_text(table + "\n")
    return flips


@dataclass(frozen=True)
class JudgedRecords:
    """The per-item records that the gate reads, and the sha256 of their files."""

    answers: "dict[str, dict[str, Answers]]"
    """By variant and task."""
    again: "dict[str, Answers] | None"
    """Of the baseline's second pass, if there was one."""
    sha256s: dict[str, str]
    """By variant."""
    again_sha256: str = ""


def read_answers(all_scores: list[Scores], results: str) -> JudgedRecords:
    """Each variant's per-item answers, and those of the baseline's second pass."""
    from quantgate.components.evidence import saved_answers

    with tempfile.TemporaryDirectory() as scratch:

        def read(variant: str, stage: str) -> "tuple[dict[str, Answers], str]":
            file = RunResults(results).records(variant, stage).fetched(Path(scratch), f"evaluate {variant} again")
            return saved_answers.read_records(file), sha256_of(file)

        files = {scores.variant: read(scores.variant, scores.stage) for scores in all_scores if scores.records}
        again = next((read(scores.variant, AGAIN) for scores in all_scores if scores.again), (None, ""))
    answers = {variant: answers for variant, (answers, _) in files.items()}
    return JudgedRecords(answers, again[0], {variant: sha256 for variant, (_, sha256) in files.items()}, again[1])


def read_screens(all_scores: Sequence[Scores], results: str) -> tuple[Scores, ...]:
    """The scores of each variant's tiny stage that has items which tinyBenchmarks chose."""
    tiny = (RunResults(results).scores(scores.variant, TINY).read(Scores) for scores in all_scores)
    return tuple(scores for scores in tiny if scores and any(task.chosen for task in scores.tasks))


def read_load_tests(all_scores: Sequence[Scores], results: str) -> tuple[LoadTest, ...]:
    """The load tests of the servers that were tested; raises PrerequisiteError for a damaged file."""
    tests = []
    for scores in all_scores:
        file = RunResults(results).load_test(scores.variant)
        try:
            tests.append(file.read(LoadTest))
        except ValidationError as error:
            reason = " ".join(str(error).split())
            raise PrerequisiteError(f"{file} is damaged: {reason}. Run it again.") from None
    return tuple(filter(None, tests))


def copy_earlier_decision(results: RunResults, decision: str) -> None:
    """Copy the earlier run's decision to the step's artifact `decision` and to this run's results."""
    file = results.earlier_decision
    if not file.get(Path(decision)):
        raise PrerequisiteError(f"The earlier decision is missing from {results.location}: run the evaluation again.")
    results.decision.put(Path(decision))
