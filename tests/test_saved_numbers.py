"""Impossible numbers in saved results: a folder with them is never judged by its scores."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.answers import fault
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.saved_answers import read_records
from quantgate.components.policies.policy import UseCase
from quantgate.components.run import records
from quantgate.components.run.artifacts import Model
from tests.support.answered import answers_of, candidate_of, table_of

SCORES = np.array([1.0, 0.0, 1.0])
POLICY = UseCase(name="any", max_average_drop=0.05)
MODEL = Model(source="any", digest="d0", uri="", size_bytes=0)


@pytest.mark.fault(
    "numbers", "Log-likelihoods of a saved folder are NaN, infinite or above 0", "failed, the items named"
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5])
def test_a_variant_with_an_impossible_log_likelihood_fails(value: float) -> None:
    baseline = candidate_of("bf16", {"mmlu": answers_of("mmlu", SCORES)})
    logliks = [[-1.0, -2.0], [value, -1.0], [-1.0, -2.0]]
    variant = candidate_of("int8", {"mmlu": answers_of("mmlu", SCORES, logliks=logliks)})
    verdict = decide_candidates(MODEL, "drawn", POLICY, [baseline, variant]).verdicts[1]
    assert verdict.verdict == "failed"
    assert "mmlu has log-likelihoods that are not finite or above 0: 1" in verdict.sentence


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"score": [1.0, math.nan, 0.0]}, "outside 0 to 1: 1"),
        ({"score": [1.0, 1.5, 0.0]}, "outside 0 to 1: 1"),
        ({"answer_tokens": [3, -1, 3]}, "answer_tokens is not finite or below 0"),
        ({"score": [-1.0, 2.0, -3.0], "units": [4.0, 4.0, 4.0]}, "log-likelihoods that are not finite or above 0: 1"),
        ({"score": [-1.0, -2.0, -3.0], "units": [4.0, math.nan, 4.0]}, "units is not finite or below 0"),
    ],
)
def test_an_impossible_number_is_named_with_its_column(columns: dict[str, Any], what: str) -> None:
    assert what in fault(answers_of("mmlu", SCORES, **columns))


def test_a_certain_choice_may_exceed_0_by_float_error() -> None:
    assert fault(answers_of("mmlu", SCORES, logliks=[[1e-7, -20.0]] * 3)) == ""


@pytest.mark.fault("numbers", "A file of records holds text in place of numbers", "refused, the column named")
@pytest.mark.parametrize(("name", "texts"), [("score", ["1.0", "0.0", "1.0"]), ("logliks", [["-1", "-2"]] * 3)])
def test_text_in_a_number_is_refused(tmp_path: Path, name: str, texts: list[object]) -> None:
    table = table_of(SCORES)
    table = table.set_column(table.column_names.index(name), name, pyarrow.array(texts))
    file = tmp_path / "full.parquet"
    pyarrow.parquet.write_table(table.append_column("task", pyarrow.array(["mmlu"] * 3)), file)
    for reader in (read_records, records.read):
        with pytest.raises(PrerequisiteError, match=f"column {name} holds text in place of numbers"):
            reader(file)
