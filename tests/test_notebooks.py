"""The notebooks: their output in a clean kernel, and that they contain no logic.

The first one runs the pipeline: tests/e2e/test_notebooks.py.
"""

import ast
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from quantgate.components.evidence.power import Expected, questions, smallest_limit
from quantgate.components.track.history import FIRST, comparison, history, newest
from tests.support.answered import answers_of, candidate_of, pair_of, write_results
from tests.support.executed import NOTEBOOKS, executed, is_drawn, pictures, printed, read, table
from tests.support.months import WEEKS, fill

NAMES = ["01_first_run", "02_compare_in_mlflow", "03_policies_and_power"]
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.If, ast.While, ast.For, ast.Try, ast.With)
pytestmark = pytest.mark.timeout(900)
named = pytest.mark.parametrize("name", NAMES)


def code(notebook: NotebookNode) -> list[ast.Module]:
    """The notebook's code, one syntax tree per cell."""
    without_magic = TransformerManager().transform_cell  # type: ignore[no-untyped-call]
    return [ast.parse(without_magic(cell.source)) for cell in notebook.cells if cell.cell_type == "code"]


def test_the_tests_cover_every_notebook() -> None:
    assert sorted(notebook.stem for notebook in NOTEBOOKS.glob("*.ipynb")) == NAMES


@named
def test_no_output_of_a_run_is_committed(name: str) -> None:
    notebook = read(name)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.execution_count, cell.outputs, set(cell.metadata) - {"tags"}) for cell in cells] == len(cells) * [
        (None, [], set())
    ]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert dict(notebook.metadata.language_info) == {"name": "python"}


@named
def test_a_notebook_starts_with_a_title_and_its_parameters_come_before_all_code(name: str) -> None:
    cells = read(name).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert sum(cell.source.startswith("# ") for cell in cells if cell.cell_type == "markdown") == 1
    first = next(cell for cell in cells if cell.cell_type == "code")
    assert first.metadata.tags == ["parameters"]


@named
def test_a_notebook_contains_no_logic(name: str) -> None:
    for module in code(read(name)):
        assert [type(node).__name__ for node in ast.walk(module) if isinstance(node, LOGIC)] == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(tmp_path_factory.getbasetemp() / "months")


@pytest.fixture(scope="module")
def mlflow_notebook(store: str, tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    folder = tmp_path_factory.mktemp("compared")
    notebook = executed("02_compare_in_mlflow", folder, TRACKING_URI=store, SEARCH="metrics.piqa.drop_upper < 0.006")
    assert {file.name for file in folder.iterdir()} <= {"ipython"}, "it changes nothing"
    return notebook


@pytest.mark.slow
def test_months_of_runs_are_shown_as_a_table(mlflow_notebook: NotebookNode) -> None:
    runs = WEEKS + len(range(0, WEEKS, 4))
    assert printed(mlflow_notebook, "runs").startswith(f"{runs} runs, {4 * runs} rows\n")
    head, *rows = table(mlflow_notebook, "runs")
    assert head == list(FIRST)
    assert len(rows) == 12
    assert rows[-1][:3] == ["week 25", "2026-10-26", "hf:org/model"]
    assert rows[-3][5:8] == ["int8", "ship", "9,080,000,000"]
    assert [float(number) for number in rows[-3][9:]] == [-0.005, -0.013, 0.003]


@pytest.mark.slow
def test_the_verdicts_of_each_variant_are_counted(mlflow_notebook: NotebookNode, store: str) -> None:
    head, _, *rows = table(mlflow_notebook, "verdicts")
    counted = {
        (row[0], verdict): int(number)
        for row in rows
        for verdict, number in zip(head[1:], row[1:], strict=True)
        if number != "0"
    }
    assert counted == history(store).groupby(["variant", "verdict"]).size().to_dict()


@pytest.mark.slow
def test_a_search_finds_the_runs_that_mlflow_finds(mlflow_notebook: NotebookNode, store: str) -> None:
    expected = history(store, "metrics.piqa.drop_upper < 0.006")
    assert 0 < len(expected) < WEEKS
    head, *rows = table(mlflow_notebook, "search")
    assert head == ["run", "time", "variant", "verdict", "average_drop", "average_drop_upper", "link"]
    assert [row[0] for row in rows] == list(expected["run"])
    assert {row[2] for row in rows} == {"int8"}
    assert all(f'href="{link}"' in printed(mlflow_notebook, "search") for link in expected["link"])


@pytest.mark.slow
def test_the_command_that_opens_mlflow_is_shown(mlflow_notebook: NotebookNode, store: str) -> None:
    last = newest(history(store))
    assert f"mlflow ui --workers 1 --backend-store-uri {store} --port 5000\n" in printed(mlflow_notebook, "open")
    assert printed(mlflow_notebook, "compare") == f"[Compare them in MLflow]({comparison(store, last)})"
    assert [row[1] for row in table(mlflow_notebook, "newest")[1:]] == list(last["run"])


@pytest.mark.slow
def test_drops_are_drawn_against_size_and_over_time(mlflow_notebook: NotebookNode) -> None:
    plots = pictures(mlflow_notebook)
    assert list(plots) == ["size", "time"]
    assert all(is_drawn(picture) for picture in plots.values())


@pytest.fixture(scope="module")
def power_notebook(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    folder = tmp_path_factory.mktemp("reckoned")
    results(folder / "run")
    return executed("03_policies_and_power", folder, RUN=str(folder / "run"), VARIANTS=["int8", "int4-g64"])


def results(run: Path) -> None:
    """The results of a run with a baseline and two variants: one loses 1 % of its score, the other 5.7 %."""
    counts_by_variant = {"bf16": (0, 0, 3000, 2000), "int8": (45, 15, 2955, 1985), "int4-g64": (232, 60, 2768, 1940)}
    for name, counts in counts_by_variant.items():
        after = pair_of(*counts)[1]
        write_results(run / "variants" / name, candidate_of(name, {"mmlu": answers_of("mmlu", after)}))


@pytest.mark.slow
def test_the_shipped_policies_are_shown_with_their_limits(power_notebook: NotebookNode) -> None:
    _, *rows = table(power_notebook, "policies")
    assert [row[:3] for row in rows] == [
        ["code", "humaneval at most 10 %", "95.0%"],
        ["code-strict", "humaneval at most 2 %", "95.0%"],
        ["demo", "divergence on arc_easy at most 0.1 nats, divergence on piqa at most 0.1 nats", "95.0%"],
        ["general-chat", "average at most 5 %", "95.0%"],
        ["math-tutoring", "gsm8k at most 3 %", "95.0%"],
        ["math-tutoring-strict", "gsm8k at most 2 %", "95.0%"],
        ["summarization", "mmlu at most 3 %", "95.0%"],
    ]


@pytest.mark.slow
def test_the_chances_of_the_shipped_policies_are_shown(power_notebook: NotebookNode) -> None:
    head, *rows = table(power_notebook, "prospects")
    assert head == ["use case", "variant", "ship", "monitor", "ab_test", "inconclusive", "reject"]
    ships = {row[0]: float(row[2].rstrip("%")) for row in rows if row[1] == "lossless INT8"}
    assert {name for name, share in ships.items() if share < 80} == {"code-strict", "math-tutoring-strict"}


@pytest.mark.slow
def test_each_limit_is_shown_with_the_questions_that_it_needs(power_notebook: NotebookNode) -> None:
    head, _, *rows = table(power_notebook, "cost")
    assert head == ["answers that differ", "1.0%", "5.0%", "10.0%", "30.0%"]
    costs = {row[0]: [int(number) for number in row[1:]] for row in rows}
    assert list(costs) == ["0.5%", "1.0%", "1.5%", "2.0%", "3.0%", "5.0%"]
    assert costs["2.0%"] == [questions(Expected(share), 0.02, 0.05) for share in (0.01, 0.05, 0.1, 0.3)]
    assert is_drawn(pictures(power_notebook)["cost-plot"])


@pytest.mark.slow
def test_the_smallest_limit_of_each_benchmark_is_shown(power_notebook: NotebookNode) -> None:
    head, *rows = table(power_notebook, "sizes")
    smallest_limits = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    assert smallest_limits.keys() >= {"mmlu", "gsm8k", "arc_challenge", "humaneval"}
    assert smallest_limits["gsm8k"]["10.0%"] == f"{smallest_limit(Expected(0.1), [1319], 0.05):.1%}" == "3.7%"
    assert smallest_limits["mmlu"]["10.0%"] == "1.1%"
    assert smallest_limits["humaneval"]["1.0%"] == "6.1%"
    assert table(power_notebook, "average")[-1] == ["smallest limit on the average", "0.5%", "1.0%", "1.4%", "2.3%"]


@pytest.mark.slow
def test_other_reasons_for_more_questions_are_shown(power_notebook: NotebookNode) -> None:
    cost = {row[0]: row[1] for row in table(power_notebook, "more")[1:]}
    assert cost["it loses 2 %, all that is allowed"] == "&lt;NA&gt;"
    numbers = {name: int(value) for name, value in cost.items() if value.isdigit()}
    assert numbers["it loses nothing"] == questions(Expected(0.1), 0.02, 0.05)
    assert numbers["one of three variants"] == questions(Expected(0.1), 0.02, 0.05 / 3)
    assert numbers["it may be stopped early"] == questions(Expected(0.1), 0.02, 0.05 * 0.75)
    assert 3.5 < numbers["it loses 1 %"] / numbers["it loses nothing"] < 4.5
    clusters = [float(row[1].rstrip("%")) for row in table(power_notebook, "clusters")[1:]]
    assert clusters == sorted(clusters)
    assert len(set(clusters)) == 4


@pytest.mark.slow
def test_an_edited_policy_judges_the_same_answers_differently(power_notebook: NotebookNode) -> None:
    _, *rows = table(power_notebook, "edited")
    assert [row[:3] for row in rows] == [
        ["general-chat", "int8", "monitor"],
        ["general-chat", "int4-g64", "inconclusive"],
        ["edited", "int8", "ship"],
        ["edited", "int4-g64", "ab_test"],
    ]
    assert rows[2][3].startswith("Ships for edited: the average fell 1.0 %")
