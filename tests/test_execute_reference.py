"""Reference solutions of HumanEval and MBPP pass, so a failure in the sandbox is the model's fault.

The tests run those rows whose tests do something unusual, and a sample of the others.
"""

import json
from typing import Any

import pytest

from quantgate.components.evaluate.program_tests import with_helpers
from quantgate.components.sandbox.containment import Limits, Program
from quantgate.components.sandbox.programs import run_programs
from tests.support.benchmark_data import shared_data
from tests.support.contained import require_sandbox

PATIENT = Limits(seconds=60)
"""Enough for each row, MBPP's task 123 included: the amicable numbers below 9999 by trial, about 5 s of processor time.
No other task comes near the default limit."""
HUMANEVAL = (32, 38, 50, 115)
"""The tests of three call a function of the prompt; in the last, the prompt's function has a statement."""
MBPP = (126, 367, 533, 596, 601, 927)
"""Their tests call `sum`, make objects of the program's class, pass a type, or use a module without an import."""

pytestmark = pytest.mark.slow


def rows(name: str, unusual: tuple[int, ...], every: int) -> list[dict[str, Any]]:
    """The rows with the unusual numbers, and a sample."""
    file = shared_data() / name
    require_sandbox()
    read = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    numbers = [int(str(row["task_id"]).removeprefix("HumanEval/")) for row in read]
    return [row for place, row in enumerate(read) if numbers[place] in unusual or place % every == 0]


def humaneval(row: dict[str, Any], body: str) -> Program:
    """The program with that body, and the row's tests as an evaluation records them."""
    tests = f"{row['test']}\ncheck({row['entry_point']})"
    return Program(row["prompt"] + body, with_helpers(tests, row["prompt"]))


def failures(programs: dict[Any, Program]) -> dict[Any, str]:
    outcomes = run_programs(list(programs.values()), limits=PATIENT)
    return {task: outcome.reason for task, outcome in zip(programs, outcomes, strict=True) if not outcome.passed}


def test_reference_solutions_of_humaneval_pass() -> None:
    sample = rows("humaneval/test.jsonl", HUMANEVAL, 12)
    assert len(sample) == 18
    assert failures({row["task_id"]: humaneval(row, row["canonical_solution"]) for row in sample}) == {}


def test_reference_solutions_of_mbpp_pass() -> None:
    sample = rows("mbpp/mbpp.jsonl", MBPP, 50)
    programs = {
        row["task_id"]: Program(row["code"], "\n".join([row["test_setup_code"], *row["test_list"]])) for row in sample
    }
    assert len(programs) >= 20
    assert failures(programs) == {}


def test_wrong_solutions_of_humaneval_fail() -> None:
    programs = {row["task_id"]: humaneval(row, "    return None") for row in rows("humaneval/test.jsonl", (), 12)}
    assert set(failures(programs)) == set(programs)
