"""The README does not lie: what it shows is what the program prints."""

import re
from pathlib import Path

import pytest

from components.artifacts import Verdict
from components.gate.policy import use_case_names
from components.report.matrix import MARKS
from tests.support.command import printed_by

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block_after(line: str) -> str:
    """The fenced block that follows the line."""
    match = re.search(re.escape(line) + r"\n+```\w*\n(.*?)```", README, flags=re.DOTALL)
    assert match, f"no block after {line!r}"
    return match.group(1)


def test_the_two_commands_come_first() -> None:
    first = README.split("```")[1]
    assert [line for line in first.splitlines() if line.startswith("make ")] == [
        line for line in first.splitlines()[1:] if line.strip()
    ]
    assert "make demo" in first
    assert "make test" in first


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["suites"]
    + [
        f"{name} --help"
        for name in (
            "run",
            "promote",
            "rollback",
            "track",
            "gate",
            "eval",
            "mirror",
            "compile",
            "submit",
            "follow",
            "schedule",
        )
    ],
)
def test_a_block_is_what_the_program_prints(command: str) -> None:
    lines = [line.rstrip() for line in printed_by(command).splitlines()]
    assert block_after(f"`quantgate {command}` prints:").strip() == "\n".join(lines).strip()


def test_every_field_of_a_row_of_verdicts_json_is_explained() -> None:
    section = README.split("### verdicts.json")[1].split("\n#")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == list(Verdict.model_fields)


def test_every_verdict_and_every_use_case_is_named() -> None:
    for name in (*MARKS, *use_case_names()):
        assert f"`{name}`" in README, name


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_file_that_is_named_exists() -> None:
    for path in set(re.findall(r"`((?:components|pipelines|benchmarks|tests|locks)/[\w./-]*)`", README)):
        assert (ROOT / path).exists(), path
