"""Rows of the Berkeley Function-Calling Leaderboard's form, made here, as flows."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.benchmarks.row_sources import Folder
from components.errors import PrerequisiteError
from components.flow_cases.answer_checks import GivenAnswer, MadeCall, fault_of
from components.flow_cases.bfcl_rows import ROWS, bfcl_file, schema_of
from components.flow_cases.flow_file import Flow
from components.flow_cases.flow_sources import flow_set, read_flows
from pipelines.cli.app import app

AREA = {
    "name": "geometry.area",
    "description": "The area.",
    "parameters": {"type": "dict", "properties": {"base": {"type": "float"}, "unit": {"type": "string"}}},
}


def row(category: str, number: int, truth: Any, **columns: Any) -> dict[str, Any]:
    return {
        "id": f"{category}_{number}",
        "subset": category,
        "turns": json.dumps([[{"role": "user", "content": f"Question {number}"}]]),
        "functions": json.dumps([AREA]),
        "ground_truth": json.dumps(truth),
        **columns,
    }


TRUTH = [{"geometry.area": {"base": [4, 4.0], "unit": ["square-cm", ""]}}]
MADE = [
    row("simple", 0, TRUTH),
    row("simple", 1, [{"geometry.area": {"base": [{"nested": [1]}]}}]),
    row("simple", 2, TRUTH),
    row("multiple", 0, TRUTH),
    row("parallel", 0, [*TRUTH, *TRUTH]),
    row("irrelevance", 0, []),
    row("multi_turn_base", 0, TRUTH, turns=json.dumps([[{"role": "user", "content": "a"}], []])),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    file = tmp_path / f"{ROWS.stem}.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in MADE))
    return tmp_path


def flows(folder: Path, count: int) -> dict[str, Flow]:
    return {flow.id: flow for flow in bfcl_file(count, Folder(folder)).flows()}


def fault(flow: Flow, *calls: str) -> str:
    made = tuple(MadeCall("geometry_area", arguments) for arguments in calls)
    return fault_of(flow.checks[0][1], GivenAnswer("", made))


def test_so_many_rows_of_each_category_become_flows(folder: Path) -> None:
    assert list(flows(folder, 1)) == ["bfcl/simple_0", "bfcl/multiple_0", "bfcl/parallel_0", "bfcl/irrelevance_0"]
    two = flows(folder, 2)
    assert "bfcl/simple_2" in two
    assert "bfcl/simple_1" not in two
    assert two["bfcl/simple_0"].use_case == "bfcl-simple"
    assert two["bfcl/simple_0"].tools[0].function.name == "geometry_area"
    assert two["bfcl/simple_0"].tools[0].function.parameters["type"] == "object"
    assert bfcl_file(3, Folder(folder)).notes == ("simple: only 2 of its 3 rows can be read as flows",)


def test_a_call_is_right_by_one_of_the_values_of_each_argument(folder: Path) -> None:
    simple = flows(folder, 1)["bfcl/simple_0"]
    assert fault(simple, '{"base": 4}') == ""
    assert fault(simple, '{"base": 4.0, "unit": "Square cm"}') == ""
    assert "base is 5" in fault(simple, '{"base": 5}')
    assert 'unit is "m"' in fault(simple, '{"base": 4, "unit": "m"}')
    assert "called with height too" in fault(simple, '{"base": 4, "height": 1}')
    parallel, none = (flows(folder, 1)[f"bfcl/{name}_0"] for name in ("parallel", "irrelevance"))
    assert fault(parallel, '{"base": 4}', '{"base": 4}') == ""
    assert fault(parallel, '{"base": 4}') != ""
    assert fault(none) == ""
    assert fault(none, "{}").startswith("it called geometry_area")


def test_types_are_named_as_json_schema_has_them() -> None:
    given = {
        "type": "dict",
        "properties": {"a": {"type": "tuple", "items": {"type": "any"}}, "type": {"type": "float"}},
    }
    assert schema_of(given) == {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {}}, "type": {"type": "number"}},
    }


@pytest.mark.slow
def test_rows_come_from_a_mirror_that_the_command_makes(folder: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    result = CliRunner().invoke(app, ["mirror", "demo", str(mirror), "--from", "embedded", "--bfcl"])
    assert result.exit_code != 0  # the package with the demo's rows has none of BFCL
    from components.benchmarks import mirror as mirrors

    mirrors.make([ROWS], Folder(folder), str(mirror), lambda *_: None)
    entries = read_flows(["bfcl:1"], str(mirror))
    assert len(flow_set(entries).flows) == 4


def test_a_source_without_the_rows_is_an_error(folder: Path) -> None:
    (folder / f"{ROWS.stem}.jsonl").unlink()
    with pytest.raises(PrerequisiteError, match="has no llamastack/bfcl_v3/default/train.parquet"):
        bfcl_file(1, Folder(folder))
