"""The JSON Schemas accept what the parsers read, and refuse what these refuse for its keys and types."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from components.benchmarks import custom
from components.errors import PrerequisiteError
from components.policies.policy import USE_CASES
from components.storage.yaml_file import parse
from pipelines.cli.app import answer
from pipelines.schemas import SCHEMAS, schema_text
from tests import test_custom, test_gate_policy

DOCS = Path(__file__).parents[1] / "docs"
STRUCTURAL = (
    "unknown key",
    "a list of keys",
    " is missing",
    "Input should be",
    "Tuple should have",
    "it must be",
    "is not allowed",
)
"""Parts of the parsers' complaints about keys, types and ranges."""
SUITE = "name: ours\ntasks:\n  - {task: gsm8k, shots: 5}\n"
SUITE_FAULTS = [
    SUITE.replace("shots", "shot"),
    SUITE.replace("5", "five"),
    SUITE.replace("5", "-1"),
    SUITE.replace("5", "5, chat: perhaps"),
    SUITE.replace("task: ", "tasks: "),
    SUITE.replace("ours", "our suite"),
    "name: ours\n",
    "name: ours\ntasks: []\n",
    "name: ours\ntasks: gsm8k\n",
    "- name\n",
]


def faults(name: str, value: Any) -> list[str]:
    """What the schema of that name finds wrong in the value."""
    validator = jsonschema.Draft202012Validator(json.loads(schema_text(name)))
    return [error.message for error in validator.iter_errors(value)]


def cases(test: Any) -> list[tuple[Any, ...]]:
    """The values with which another test is repeated."""
    return list(next(mark for mark in test.pytestmark if mark.name == "parametrize").args[1])


def block(page: str, title: str) -> str:
    """The first YAML block of a section of a page in docs/."""
    text: str = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {title}\n")[2]
    return text.partition("```yaml\n")[2].partition("```")[0]


def structural(complaint: str) -> bool:
    return any(part in complaint for part in STRUCTURAL) and "nan" not in complaint and " 1.0 " not in complaint


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_describes_every_key(name: str) -> None:
    schema = json.loads(schema_text(name))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    models = [model for model in schema.get("$defs", {}).values() if model]  # any JSON value has no keys to describe
    for model in (schema, *models):
        assert all("description" in key or "$ref" in key for key in model["properties"].values())
        assert "description" in model


@pytest.mark.parametrize("file", sorted(USE_CASES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_policy_fits_its_schema(file: Path) -> None:
    assert faults("policy", yaml.safe_load(file.read_text(encoding="utf-8"))) == []


def test_every_shipped_custom_task_fits_its_schemas() -> None:
    folders = [file.parent for file in custom.SETS.glob("*/set.yaml")]
    assert folders
    for folder in folders:
        settings = yaml.safe_load((folder / "set.yaml").read_text(encoding="utf-8"))
        assert faults("custom-task", settings) == []
        for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines():
            assert faults(f"{settings['answer']}-item", json.loads(line)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("suite", block("benchmarks.md", "A suite of your own")),
        ("suite", SUITE.replace("5", "null, metric: 65536, chat: no")),
        ("custom-task", block("benchmarks.md", "Custom tasks")),
        ("custom-task", test_custom.SETTINGS["exact"] + "stop: [x]\nignore_case: false\n"),
        ("policy", block("deciding.md", "Longer answers and cut answers")),
        ("policy", block("deciding.md", "Speed beside accuracy")),
        ("policy", "name: ours\nmax_average_drop: 5 %\nbands: {ship: 0.5 %, monitor: 0.01, ab_test: 2 %}\n"),
    ],
)
def test_what_the_parser_reads_fits_the_schema(name: str, text: str) -> None:
    parse(SCHEMAS[name], text, "file.yaml")
    assert faults(name, yaml.safe_load(text)) == []


def test_the_items_of_the_tests_fit_their_schemas() -> None:
    assert faults("choice-item", test_custom.CHOICE) == faults("exact-item", test_custom.EXACT) == []
    assert faults("regex-item", test_custom.REGEX) == []


def refused() -> Iterator[tuple[str, str]]:
    """Schema and text of each YAML file of the tests that a parser refuses for its keys, types or ranges."""
    policies = cases(test_gate_policy.test_an_invalid_policy_is_refused_with_file_line_and_allowed_values)
    yield from (("policy", text) for text, complaint in policies if structural(complaint))
    settings = cases(test_custom.test_unknown_or_invalid_settings_are_refused)
    yield from (("custom-task", text) for text, complaint in settings if structural(complaint))
    yield from (("suite", text) for text in SUITE_FAULTS)


@pytest.mark.parametrize(("name", "text"), refused())
def test_a_file_that_the_parser_refuses_for_its_structure_fails_the_schema(name: str, text: str) -> None:
    with pytest.raises(PrerequisiteError):
        parse(SCHEMAS[name], text, "file.yaml")
    assert faults(name, yaml.safe_load(text)) != []


def test_a_line_that_the_parser_refuses_for_its_structure_fails_the_schema() -> None:
    lines = cases(test_custom.test_a_malformed_line_is_refused_with_its_number)
    wrong = [(kind, item) for kind, item, complaint in lines if structural(complaint) and not isinstance(item, str)]
    assert len(wrong) == 11
    assert [item for kind, item in wrong if not faults(f"{kind}-item", item)] == []


def test_an_unknown_schema_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        answer(["schema", "policies"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        "quantgate: Unknown schema 'policies'. Choose from: policy, suite, flow, custom-task, choice-item, exact-item,"
        " regex-item.\n"
    )
