"""The judge: what a model's program returns is compared as data, in a process that the program does not reach."""

import json
from pathlib import Path
from typing import cast

import pytest

from quantgate.components.benchmarks.encoder import Encoder
from quantgate.components.benchmarks.harness import prepare
from quantgate.components.benchmarks.prompts import ItemPrompts
from quantgate.components.benchmarks.row_sources import Folder
from quantgate.components.benchmarks.suites import HUMANEVAL
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.item_record import Recorder
from quantgate.components.evaluate.program_tests import with_helpers
from quantgate.components.sandbox.containment import Program
from quantgate.components.sandbox.programs import run_programs
from quantgate.components.servers.client import Text

POLY = """import math

def poly(xs: list, x: float):
    "Value at x."
    return sum([c * math.pow(x, i) for i, c in enumerate(xs)])

def find_zero(xs: list):
    "A zero of the polynomial."
"""
CHECK = (
    "def check(candidate):\n    assert abs(poly([-6, 11, -6, 1], candidate([-6, 11, -6, 1]))) < 1e-4\ncheck(find_zero)"
)
FORGES = "class F:\n    def __getattr__(self, name): return lambda *a: True\n"
FORGES += "".join(
    f"    def __{name}__(self, *other): return {value}\n"
    for name, value in {
        **dict.fromkeys(("eq", "ne", "lt", "gt", "le", "ge", "bool", "contains"), True),
        **dict.fromkeys(("abs", "sub", "rsub", "len", "hash"), 0),
    }.items()
)
FORGES += "def f(*a): return F()\n"

TYPES = """from decimal import Decimal
from fractions import Fraction
from collections import deque
values = [None, True, 1.5, -0.0, float('inf'), 10 ** 5000, 'ä\\ud800', b'b', bytearray(b'b'), 2j, range(3), int]
values += [[1, (2,)], {1: {2}}, frozenset({1}), Decimal('1.0'), Fraction(1, 3), deque([1])]
for x in values:
    assert f(x) == x and type(f(x)) is type(x)
"""
NODE = """class Node:
    def __init__(self, key): self.key, self.next = key, None
def total(node): return node.key + total(node.next) if node else 0
"""

PASSES = {
    "values of each type": ("def f(x): return x", TYPES),
    "an object of its class": (
        NODE,
        "root = Node(1)\nroot.next = Node(2)\nassert total(root) == 3\nassert root.next.key == 2",
    ),
    "a generator": ("def f(n):\n    for x in range(n): yield x", "assert list(f(3)) == [0, 1, 2]\nassert 2 in f(3)"),
    "its exception": (
        "def f(x): raise ValueError",
        "try:\n    f(1)\nexcept ValueError:\n    caught = True\nassert caught",
    ),
    "a name of Python's": ("def sum(a, b): return a - b", "assert sum(3, 1) == 2"),
    "a module without import": ("def f(): return 0.3", "assert math.isclose(f(), 0.1 + 0.2)"),
    "the prompt's own function": (
        POLY + "    return 1.0" + "\ndef poly(xs, x): return 5",
        with_helpers(CHECK, POLY),
    ),
}
FAILS = {
    "its own version of the prompt's function": (
        POLY + "    return 9.0" + "\ndef poly(xs, x): return 0",
        with_helpers(CHECK, POLY),
        "AssertionError",
    ),
    "an object that equals everything": (FORGES, "assert f() == 4", "AssertionError"),
    "an object that is in everything": (FORGES, "assert f() in (4, 5)", "AssertionError"),
    "an object that is close to everything": (FORGES, "assert abs(f() - 4) < 1e-6", "TypeError"),
    "an object that is less than everything": (FORGES, "assert f() < 4", "TypeError"),
    "an object that contains everything": (FORGES, "assert 4 in f()", "TypeError"),
    "a list of objects that equal everything": (FORGES, "def g(): return f()\nassert [f()] == [4]", "AssertionError"),
    "Python's own functions replaced": (
        "def f(): return [2, 1]\ndef sorted(x): return [1, 2, 3]\ndef set(x): return x\ndef len(x): return 3",
        "assert sorted(f()) == [1, 2, 3] or set(f()) == {1, 2, 3} or len(f()) == 3",
        "AssertionError",
    ),
    "an end that a test catches": (
        "import os\ndef f(): os._exit(0)",
        "try:\n    f()\nexcept BaseException:\n    pass",
        "exit status 0 before its tests ended",
    ),
    "not a number": ("def f(): return float('nan')", "assert abs(f() - 1) < 1e-6", "AssertionError"),
    "no function": ("f = 4", "assert f(1) == 4", "TypeError"),
    "an exception that ends a test's loop": (
        "def f(x): raise StopIteration",
        "assert all(map(lambda x: f(x) == x, [1, 2]))\nfor a, b in zip(map(f, [1]), [1]):\n    assert a == b",
        "RuntimeError",
    ),
}


@pytest.mark.usefixtures("sandbox")
def test_a_correct_program_passes_by_the_values_that_it_returns() -> None:
    outcomes = run_programs([Program(*program) for program in PASSES.values()])
    assert {name: outcome.reason for name, outcome in zip(PASSES, outcomes, strict=True)} == dict.fromkeys(PASSES, "")


@pytest.mark.fault(
    "programs",
    "a program returns an object that equals, contains or exceeds everything, or replaces what its tests call",
    "its object equals only itself, and its tests call Python's and the prompt's own functions",
)
@pytest.mark.usefixtures("sandbox")
def test_a_program_does_not_pass_by_what_its_objects_say() -> None:
    outcomes = run_programs([Program(source, tests) for source, tests, _ in FAILS.values()])
    assert {name: outcome.reason for name, outcome in zip(FAILS, outcomes, strict=True)} == {
        name: reason for name, (_, _, reason) in FAILS.items()
    }


@pytest.mark.fault(
    "programs",
    "a test hands a function of its own to the program",
    "no program of the task gets a score, and the reason says so",
)
@pytest.mark.usefixtures("sandbox")
def test_what_the_judge_cannot_send_is_not_scored() -> None:
    program = Program("def f(key): return key(2)", "try:\n    f(lambda x: x)\nexcept Exception:\n    pass")
    with pytest.raises(PrerequisiteError, match="pass it a function of their own, which cannot be sent"):
        run_programs([program])


def test_only_functions_before_the_one_to_write_belong_to_the_tests() -> None:
    assert with_helpers(CHECK, POLY).startswith("import math\n\ndef poly(xs: list, x: float):")
    assert "def find_zero" not in with_helpers(CHECK, POLY)
    other = "assert find_zero([1]) == 2"
    assert with_helpers(other, POLY) == other
    assert with_helpers(other, "import math\ndef find_zero(xs):\n    import math\n") == other
    assert with_helpers(other, "Write a function to find zeros.") == other


def test_a_record_has_the_program_apart_from_its_tests(tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/32", "prompt": POLY, "canonical_solution": "", "entry_point": "find_zero"}
    file = tmp_path / "openai/openai_humaneval/default/test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text((json.dumps(row | {"test": CHECK.removesuffix("\ncheck(find_zero)")}) + "\n") * HUMANEVAL.full)
    item = ItemPrompts(0, 0, "", "", (), ([1],), (), json.dumps({"stop": [], "max_tokens": 9}), "", 1)
    recorder = Recorder(prepare(HUMANEVAL, Folder(tmp_path)), "int8", lambda: cast(Encoder, None))
    record = recorder.record(item, Text("    return 1.0", cut=False, tokens=5))
    assert record.thinking_tokens == 0, "no text to count, so no tokenizer is loaded: that would stop all requests"
    assert (record.program, record.tests) == (POLY + "    return 1.0", with_helpers(CHECK, POLY))
    assert record.score is None
