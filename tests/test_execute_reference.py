"""The reference solutions of HumanEval and MBPP pass, so a failure in the sandbox is the model's fault."""

import json
from typing import Any

import pytest

from components.sandbox.containment import Limits
from components.sandbox.programs import run_programs
from tests.support.benchmark_data import shared_data
from tests.support.contained import require_sandbox

PATIENT = Limits(seconds=60)
"""MBPP's task 123, the amicable numbers below 9999 by trial, takes about 5 s of processor time, more where that is
shared; no other task comes near the default limit."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def rows(name: str) -> list[dict[str, Any]]:
    file = shared_data() / name
    require_sandbox()
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def failures(programs: dict[Any, str]) -> dict[Any, str]:
    outcomes = run_programs(list(programs.values()), limits=PATIENT)
    return {task: outcome.reason for task, outcome in zip(programs, outcomes, strict=True) if not outcome.passed}


def test_every_reference_solution_of_humaneval_passes() -> None:
    programs = {
        row["task_id"]: f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})"
        for row in rows("humaneval/test.jsonl")
    }
    assert len(programs) == 164
    assert failures(programs) == {}


def test_every_reference_solution_of_mbpp_passes() -> None:
    programs = {
        row["task_id"]: "\n".join([row["code"], row["test_setup_code"], *row["test_list"]])
        for row in rows("mbpp/mbpp.jsonl")
    }
    assert len(programs) == 974
    assert failures(programs) == {}


def test_a_wrong_solution_of_humaneval_fails() -> None:
    programs = {
        row["task_id"]: f"{row['prompt']}    return None\n{row['test']}\ncheck({row['entry_point']})"
        for row in rows("humaneval/test.jsonl")[:40]
    }
    assert set(failures(programs)) == set(programs)
