"""The terminal output in README and docs/: printed by the program, written into the pages, and checked by test_docs.py.

    python -m tests.printed             write docs/cli.md, every block after a line "`COMMAND` prints:", and the table
                                        of variants in docs/models.md, tests/FAULTS.md, the picture of the graph, and
                                        docs/schemas/
    python -m tests.printed FILE.png    take the picture of the report again, with chromium

The examples rest on simulated answers, which are the same each time.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import typer
from typer.testing import CliRunner

from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.models.variants import BLACKWELL, VARIANTS
from quantgate.components.policies.policy import use_case_named
from quantgate.components.report.pages import write_report
from quantgate.components.run.artifacts import Model
from quantgate.pipelines.cli.app import app
from quantgate.pipelines.exits import MEANINGS
from quantgate.pipelines.schemas import SCHEMAS, schema_text
from tests.support.answered import answers_of, candidate_of, pair_of, write_results
from tests.support.drawn_graph import PICTURE, graph
from tests.support.faults import PAGE as FAULTS_PAGE
from tests.support.faults import faults_page

ROOT = Path(__file__).parents[1]
CLI_PAGE = ROOT / "docs" / "cli.md"
SCHEMA_FILES = {name: ROOT / "docs" / "schemas" / f"{name}.json" for name in SCHEMAS}
VARIANTS_PAGE = ROOT / "docs" / "models.md"
VARIANTS_TABLE = re.compile(r"(?<=## The variants\n\n)(?:\|.*\n)+")
BLOCK = re.compile(r"(`(quantgate[^`\n]*)` prints:\n\n```text\n)(.*?)(```)", re.DOTALL)
COMMAND_LINE = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}

CLI_HEAD = """# What does each command take?

This page is generated: `python -m tests.printed` writes it from the program's own help, and a test compares the two.

`quantgate` is in `.venv/bin`; `quantgate --install-completion` makes your shell complete commands and options. Every
command checks its arguments before it starts anything expensive.

"The worst" is the worst verdict of the run's variants.

| exit status | meaning |
|---|---|
""" + "".join(f"| {status} | {meaning} |\n" for status, meaning in MEANINGS.items())

SIZES = {"bf16": 269_060_552, "int8": 163_000_000, "int4-g128": 116_000_000, "int4-g64": 113_000_000}
SIMULATED: dict[str, dict[str, tuple[int, int]]] = {
    "int8": {"arc_challenge": (4, 3), "gsm8k": (5, 4), "hellaswag": (15, 12)},
    "int4-g128": {"arc_challenge": (70, 20), "gsm8k": (110, 24), "hellaswag": (500, 150)},
    "int4-g64": {"arc_challenge": (30, 22), "gsm8k": (40, 24), "hellaswag": (160, 90)},
}
"""Answers lost and gained on each task, in the example of docs/deciding.md and in the picture of the report."""
TASKS = {"arc_challenge": (1172, 640), "gsm8k": (1319, 560), "hellaswag": (4000, 3000)}
"""Items, and how many of them the simulated baseline answers right."""


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def printed_by(command: str, folder: Path = ROOT) -> str:
    """What the command prints in that folder, without the spaces at the ends of its lines."""
    runner, arguments = CliRunner(), shlex.split(command)[1:]
    with chdir(folder):
        result = runner.invoke(app, arguments, prog_name="quantgate", env=COMMAND_LINE)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    lines = [line.rstrip() for line in result.output.splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Each command whose output a page shows, and the block that shows it."""
    for match in BLOCK.finditer(text):
        yield match[2], match[3]


def refreshed(text: str, folder: Path) -> str:
    """The page with every block as the program prints it now."""
    return BLOCK.sub(lambda match: f"{match[1]}{printed_by(match[2], folder)}{match[4]}", text)


def variants_table() -> str:
    """The table of variants in docs/models.md."""
    lines = ["| variant | scheme | weights that share a scale | made by | served by |", "|---|---|---|---|---|"]
    for variant in VARIANTS.values():
        shared = str(variant.group_size or "those of a channel") if variant.quantized else "–"
        shared = f"a block of {variant.block_size} x {variant.block_size}" if variant.block_size else shared
        observer = " with a squared-error observer" if variant.observer == "mse" else ""
        maker = variant.method + observer or "nothing: it is the baseline"
        gpu = "GPU" if variant.on_gpus_since else ""
        before = {None: "", (9, 1): " (Hopper)", BLACKWELL: " (before Blackwell)"}
        gpu += before[variant.on_gpus_before]
        where = ", ".join(filter(None, (gpu, "CPU" if variant.on_cpus else "")))
        lines.append(f"| `{variant.name}` | {variant.scheme} | {shared} | {maker} | {where} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """docs/cli.md: the help of every command, in the order of `quantgate --help`."""
    group = typer.main.get_command(app)
    names: Mapping[str, object] = group.commands  # type: ignore[attr-defined]  # typer's group has them
    helped = [name for name in names if name != "lm-eval"]  # its help is lm-eval's own
    commands = ["quantgate --help", *(f"quantgate {name} --help" for name in helped)]
    parts = [CLI_HEAD]
    for command in commands:
        title = command.removesuffix(" --help")
        parts.append(f"\n## {title}\n\n`{command}` prints:\n\n```text\n{printed_by(command)}```\n")
    return "".join(parts)


def simulated() -> list[Candidate]:
    """A baseline and three variants with simulated answers: no model gave them."""
    right = {task: np.repeat([1.0, 0.0], [correct, items - correct]) for task, (items, correct) in TASKS.items()}
    candidates = [candidate_of("bf16", {task: answers_of(task, scores) for task, scores in right.items()})]
    for variant, by_task in SIMULATED.items():
        after = {}
        for task, (lost, gained) in by_task.items():
            items, correct = TASKS[task]
            after[task] = answers_of(task, pair_of(lost, gained, correct - lost, items - correct - gained)[1])
        candidates.append(candidate_of(variant, after))
    return [finished(candidate) for candidate in candidates]


def finished(candidate: Candidate) -> Candidate:
    """The candidate with the size of its weights and the standard error of each score."""
    tasks = tuple(
        task.model_copy(update={"stderr": math.sqrt(task.score * (1 - task.score) / task.items)})
        for task in candidate.scores.tasks
    )
    weights = candidate.weights.model_copy(update={"size_bytes": SIZES[candidate.name]})
    return replace(candidate, weights=weights, scores=candidate.scores.model_copy(update={"tasks": tasks}))


def write_example(folder: Path) -> Path:
    """The folder in which the pages' commands find the simulated results as `results/<variant>`."""
    for candidate in simulated():
        write_results(folder / "results" / candidate.name, candidate)
    return folder


def take_picture(target: Path) -> None:
    """Write the report on the simulated answers, and have chromium take a picture of its top, in 256 colours."""
    from PIL import Image

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        sys.exit("There is no chromium on the PATH: apt-get install chromium")
    model = Model(source="hf:example/model", digest="4f9a" * 16, uri="", size_bytes=SIZES["bf16"])
    decision = decide_candidates(model, "simulated answers", use_case_named("general-chat"), simulated())
    with tempfile.TemporaryDirectory() as scratch:
        page, _ = write_report(decision, Path(scratch), run="example")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={scratch}/p"]
        window = [f"--screenshot={target.absolute()}", "--window-size=1100,1365", "--virtual-time-budget=5000"]
        subprocess.run([chromium, *options, *window, page.as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(target) as picture:
        picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(target, optimize=True)


def main() -> None:
    """Write what the program prints into the pages, or take the picture."""
    if len(sys.argv) > 1:
        take_picture(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_example(Path(scratch))
        for page in pages():
            if page != CLI_PAGE:
                text = page.read_text(encoding="utf-8")
                page.write_text(refreshed(text, folder), encoding="utf-8")
    text = VARIANTS_PAGE.read_text(encoding="utf-8")
    VARIANTS_PAGE.write_text(VARIANTS_TABLE.sub(lambda _: variants_table(), text), encoding="utf-8")
    CLI_PAGE.write_text(cli_page(), encoding="utf-8")
    FAULTS_PAGE.write_text(faults_page(), encoding="utf-8")
    PICTURE.write_text(graph(), encoding="utf-8")
    for name, file in SCHEMA_FILES.items():
        file.write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(COMMAND_LINE)
    main()
