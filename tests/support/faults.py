"""The list of attacks and faults in tests/FAULTS.md, read from the tests' marks without importing the tests.

    @pytest.mark.fault(ROOM, WHAT HAPPENS, OUTCOME)

The mark goes on the test that shows the outcome.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
PAGE = TESTS / "FAULTS.md"
HEAD = """# What is tried against the pipeline, and what happens

This page is generated: `python -m tests.printed` writes it from the marks `@pytest.mark.fault` on the tests, and a test
compares the two. What is trusted without a check is in [the threat model](../docs/threat-model.md).
"""
ROOMS = {
    "verdicts": "Verdicts and their evidence",
    "weights": "Weights",
    "servers": "Servers and their answers",
    "programs": "Programs that a model writes",
    "numbers": "Scores and statistics",
    "inputs": "Files and texts from outside",
    "machine": "The machine, the cluster and the network",
}
"""The headings by the first argument of a mark."""


class Fault(NamedTuple):
    """One attack or fault, its outcome, and the test that shows it."""

    room: str
    happens: str
    outcome: str
    file: str
    test: str


def faults() -> Iterator[Fault]:
    """Every fault that a test is marked with, in the order of files and lines."""
    for file in sorted(TESTS.rglob("test_*.py")):
        source = file.read_text(encoding="utf-8")
        if "mark.fault(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                        room, happens, outcome = (ast.literal_eval(argument) for argument in mark.args)
                        yield Fault(room, happens, outcome, file.relative_to(TESTS).as_posix(), node.name)


def faults_page() -> str:
    """tests/FAULTS.md."""
    by_room: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults():
        by_room[fault.room].append(fault)
    if unknown := by_room.keys() - ROOMS.keys():
        raise ValueError(f"A test is marked with {', '.join(sorted(unknown))}. The rooms are {', '.join(ROOMS)}.")
    parts = [HEAD]
    for room, title in ROOMS.items():
        if by_room[room]:
            parts += [f"\n## {title}\n\n| what happens | outcome | test |\n|---|---|---|\n"]
            parts += [
                f"| {fault.happens} | {fault.outcome} | [{fault.test}]({fault.file}) |\n" for fault in by_room[room]
            ]
    return "".join(parts)
