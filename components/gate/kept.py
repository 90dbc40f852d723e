"""What the gate reads of all variants' answers, and the flips that it keeps."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import PrerequisiteError
from components.models.variants import BASELINE
from components.run.artifacts import Scores
from components.run.results import AGAIN, RunResults

if TYPE_CHECKING:
    from components.evidence.answers import Answers
    from components.run.artifacts import Flip
    from components.run.records import Record


def kept_flips(all_scores: Sequence[Scores], results: str) -> "dict[str, list[Flip]]":
    """Of each variant the questions that it answers otherwise than the baseline; all of them stay in the results."""
    from components.gate import flipped_items
    from components.run import records

    run, flips = RunResults(results), {}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.parquet"

        def read(scores: Scores) -> "list[Record]":
            exists = scores.records and run.records(scores.variant, scores.stage).get(file)
            return records.read(file) if exists else []

        baseline = next((read(each) for each in all_scores if each.variant == BASELINE), [])
        for each in all_scores:
            if each.variant != BASELINE and each.records:
                flips[each.variant] = flipped_items.flips(baseline, read(each))
                table = json.dumps(flipped_items.columns(flips[each.variant]), ensure_ascii=False)
                run.flips(each.variant).put_text(table + "\n")
    return flips


def kept_answers(
    all_scores: list[Scores], results: str
) -> "tuple[dict[str, dict[str, Answers]], dict[str, Answers] | None]":
    """Each variant's answers item by item, and those of the baseline's second pass."""
    from components.evidence import saved_answers

    with tempfile.TemporaryDirectory() as scratch:

        def read(variant: str, stage: str) -> "dict[str, Answers]":
            file = RunResults(results).records(variant, stage)
            return saved_answers.read_records(file.fetched(Path(scratch), f"evaluate {variant} again"))

        answers = {scores.variant: read(scores.variant, scores.stage) for scores in all_scores if scores.records}
        again = next((read(scores.variant, AGAIN) for scores in all_scores if scores.again), None)
    return answers, again


def keep_earlier_decision(results: RunResults, decision: str) -> None:
    """Copy the decision of the run that judged this model before: to the step's artifact, and as this run's own."""
    file = results.earlier_decision
    if not file.get(Path(decision)):
        raise PrerequisiteError(f"The earlier decision is missing from {results.location}: run the evaluation again.")
    results.decision.put(Path(decision))
