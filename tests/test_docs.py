"""README and docs/ are correct: they show the program's real output, and everything that they name exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.evidence.next_steps import next_step
from quantgate.components.models.variants import VARIANTS
from quantgate.components.policies.policy import use_case_names
from quantgate.components.report.matrix import MARKS
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Verdict
from quantgate.pipelines.cli.app import app
from tests.printed import (
    CLI_PAGE,
    ROOT,
    SCHEMA_FILES,
    VARIANTS_TABLE,
    blocks,
    cli_page,
    pages,
    printed_by,
    variants_table,
    write_example,
)
from tests.support.drawn_graph import PICTURE, graph
from tests.support.faults import PAGE as FAULTS_PAGE
from tests.support.faults import faults_page
from tests.support.kustomized import table_after

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in pages()}
DECIDING = TEXTS["docs/deciding.md"]
PATH = re.compile(
    r"`((?:components|pipelines|benchmarks|tests|locks|manifests|notebooks|docs)/(?:[\w.-]+/)*(?:[\w-]+\.\w+)?)`"
)
APPLIED = {"kind": "overlays/dev", "Kubeflow": "overlays/kubeflow", "OpenShift AI": "overlays/openshift-ai"}
"""The overlay of each way of the page about clusters."""
OURS = (
    *(
        "There is no ServingRuntime",
        "Several users share this Kubeflow",
        "its verdict cannot be read from this machine",
    ),
    *("The signature is not that of this webhook's secret", "pip could not download"),
)
"""Messages of quantgate's among those that the page about clusters explains."""
PLACEHOLDER = "NAME"
"""A path segment that stands for the reader's own name."""
SHELL_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the simulated results that the pages' commands name."""
    return write_example(tmp_path_factory.mktemp("example"))


def test_the_two_commands_come_first() -> None:
    commands = README.split("```")[1].splitlines()[1:]
    assert [line.split("#")[0].strip() for line in commands] == ["make demo", "make test"]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_run_in_the_readme_has_the_programs_wording() -> None:
    lines = README.split("```text\n")[1].splitlines()
    words = MARKS["monitor"].answer.format(variants="int8", baseline="bf16", use_case="demo")
    assert " ".join(lines[: lines.index("")]) == words
    shown = " ".join(lines)
    for variant, verdict in {"bf16": "reference", "int8": "monitor"}.items():
        assert f"{variant}: {next_step(verdict, variant)}" in shown
    for variant in ("int4-g128", "int4-g64"):  # the run names the variants of its day
        assert f"{variant}: Try int8" in shown


@pytest.mark.slow
def test_each_block_equals_the_programs_output(example: Path) -> None:
    shown = [
        (command, block) for name, text in TEXTS.items() if name != "docs/cli.md" for command, block in blocks(text)
    ]
    assert [command.split()[1] for command, _ in shown] == ["suites", "power", "gate", "gate"]
    for command, block in shown:
        assert printed_by(command, example) == block, command


def test_the_command_line_page_equals_the_programs_output() -> None:
    """After a change: python -m tests.printed"""
    assert CLI_PAGE.read_text(encoding="utf-8") == cli_page()


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_in_a_block_is_accepted_by_the_command_line(name: str) -> None:
    """Its options and arguments; the command itself is not started."""
    group = typer.main.get_command(app)
    for line in SHELL_BLOCK.findall(TEXTS[name]):
        for command in re.findall(r"^quantgate .+", line.replace("\\\n", " "), flags=re.MULTILINE):
            verb, *arguments = shlex.split(command, comments=True)[1:]
            if verb != "lm-eval":  # its options are lm-eval's own
                group.commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]  # as in cli_page


@pytest.mark.parametrize("way", ["kind", "Kubeflow", "OpenShift AI"])
def test_the_page_of_the_cluster_leads_from_an_empty_cluster_to_a_verdict_in_numbered_commands(way: str) -> None:
    section = TEXTS["docs/cluster.md"].partition(f"\n## {way}\n")[2].partition("\n## ")[0]
    block = SHELL_BLOCK.findall(section)[0]
    parts = re.split(r"^# (\d+)\. ", block, flags=re.MULTILINE)
    assert (parts[0], parts[1::2]) == ("", [str(number) for number in range(1, len(parts) // 2 + 1)])
    order = ("make images ", "quantgate compile ", "quantgate doctor --cluster ", "quantgate submit ")
    places = [block.index(command) for command in order]
    assert places == sorted(places)
    assert block.index(f"apply -k manifests/{APPLIED[way]}") < places[1]


def test_the_page_of_the_cluster_says_what_to_do_about_what_one_sees() -> None:
    """What quantgate itself prints is in the program, word for word."""
    rows = table_after("## You see this, do that", TEXTS["docs/cluster.md"])
    assert all(seen and remedy for seen, remedy in rows)
    program = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "pipelines").rglob("*.py"))
    program += "".join(file.read_text(encoding="utf-8") for file in (ROOT / "components").rglob("*.py"))
    for text in OURS:
        assert any(text in seen for seen, _ in rows), text
        assert text in program, text


def test_every_field_of_a_row_of_verdicts_json_is_explained() -> None:
    section = TEXTS["docs/run-folder.md"].split("## verdicts.json")[1]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == list(Verdict.model_fields)


def test_every_verdict_and_every_use_case_is_named() -> None:
    for verdict in MARKS:
        assert f"`{verdict}`" in README, verdict
    for name in (*MARKS, *use_case_names()):
        assert f"`{name}`" in DECIDING, name


def test_the_table_of_variants_equals_the_programs_rows() -> None:
    """After a change: python -m tests.printed"""
    assert VARIANTS_TABLE.findall(TEXTS["docs/models.md"]) == [variants_table()]
    assert re.findall(r"^\| `([\w-]+)` \|", variants_table(), flags=re.MULTILINE) == list(VARIANTS)


def test_the_list_of_attacks_and_faults_equals_the_tests_marks() -> None:
    """After a change: python -m tests.printed"""
    assert FAULTS_PAGE.read_text(encoding="utf-8") == faults_page()


def test_the_picture_of_the_graph_equals_the_compiled_pipeline() -> None:
    """After a change: python -m tests.printed"""
    assert PICTURE.read_text(encoding="utf-8") == graph()


def test_the_published_schemas_equal_the_programs() -> None:
    """After a change: python -m tests.printed"""
    assert sorted((ROOT / "docs" / "schemas").iterdir()) == sorted(SCHEMA_FILES.values())
    for name, file in SCHEMA_FILES.items():
        assert file.read_text(encoding="utf-8") == printed_by(f"quantgate schema {name}")


def scripts(value: Any) -> Iterator[str]:
    """The shell scripts in a workflow of GitHub or GitLab."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("run", "script"):
                yield from [inner] if isinstance(inner, str) else inner
            else:
                yield from scripts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scripts(inner)


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "ci").iterdir()), ids=lambda file: file.stem)
def test_every_command_in_a_workflow_is_accepted_by_the_command_line(file: Path) -> None:
    """Its options and arguments, and every file that the workflow shows is one that the run writes."""
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    lines = "\n".join(scripts(workflow)).replace("\\\n", " ")
    commands = [shlex.split(command)[1:] for command in re.findall(r"^quantgate .+", lines, flags=re.MULTILINE)]
    assert [verb for verb, *_ in commands] == ["setup", "run"]
    group = typer.main.get_command(app)
    for verb, *arguments in commands:
        context = group.commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]  # as in cli_page
    given = context.params
    assert (given["policy"], given["exit_by_verdict"]) == (Path("policy.yaml"), True)
    assert set(given["variants"].split(",")) <= set(VARIANTS)
    assert given["suite"] in SUITES
    run = RunResults(str(given["out"]))
    written = {given["junit"], given["summary"], run.report.path, run.verdicts.path}
    text = file.read_text(encoding="utf-8")
    assert {Path(path) for path in re.findall(r"^ +(?:- )?([\w/]+\.(?:xml|md|html|json))$", text, re.M)} <= written
    assert {str(path) for path in written} <= set(re.findall(r"[\w/]+\.\w+", text))


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, text in TEXTS.items():
        for target in set(re.findall(r"(?:^|`)make ([a-z]+(?:-[a-z]+)*)", text, flags=re.MULTILINE)):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{name}: make {target}"


@pytest.mark.parametrize("name", [*TEXTS, "CHANGELOG.md", "manifests/README.md", "tests/FAULTS.md"])
def test_every_relative_link_has_a_target(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name} links to {link}"
        if heading:
            assert heading in anchors(target), f"{name} links to {link}"


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", TEXTS)
def test_every_path_that_is_named_exists(name: str) -> None:
    paths = {path for path in PATH.findall(TEXTS[name]) if PLACEHOLDER not in path}
    missing = [path for path in sorted(paths) if not (ROOT / path).exists()]
    assert not missing


def test_everything_in_the_readmes_tree_exists() -> None:
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert not missing


def test_the_readmes_tree_lists_every_folder_with_code() -> None:
    inside = {
        path.relative_to(ROOT).as_posix()
        for folder in ("components", "pipelines")
        for path in (ROOT / folder).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert inside <= set(tree())


def tree() -> Iterator[str]:
    """The paths in the README's tree; two spaces of indentation are one folder deeper."""
    block = README.split("## The files")[1].split("```")[1]
    folders: list[str] = []
    for line in block.splitlines()[1:]:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        del folders[depth:]
        yield "/".join([*folders, name.rstrip("/")])
        folders.append(name.rstrip("/"))
