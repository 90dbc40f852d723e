"""The commands for a running server: `quantgate eval`, `lm-eval`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve import checks
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.results import FULL, VariantResults
from quantgate.components.storage.cache import cache_dir
from quantgate.pipelines import options
from quantgate.pipelines.cli.progress_bar import bar
from quantgate.pipelines.cli.run_options import takes
from quantgate.pipelines.served_model import MODEL, endpoint_server, prepared_plan, score_server
from quantgate.pipelines.terminal_output import VisibleConsole, print_text


def lm_eval_command(context: typer.Context) -> None:
    """Run lm-evaluation-harness with quantgate's model `vllm-endpoint`; its options follow."""
    from lm_eval.__main__ import cli_evaluate

    from quantgate.components.evaluate import endpoint  # registers the model

    print_text(
        f"quantgate: --model {endpoint.NAME} is available; its --model_args: {endpoint.ARGUMENTS}", to_stderr=True
    )
    sys.argv = ["lm-eval", *context.args]
    cli_evaluate()


OPTIONS_OF_EVAL = [
    *("suite", "trust_tasks", "custom", "limit", "data", "chat_template"),
    *("chat", "samples", "temperature", "max_answer_tokens", "irt_parameters"),
]


@takes(values=options.collect_options(OPTIONS_OF_EVAL))
def evaluate(
    values: dict[str, Any],
    endpoint: Annotated[
        str,
        typer.Option(help="Base of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1; its key: $OPENAI_API_KEY."),
    ],
    model: Annotated[str, typer.Option(help="The served model's name [the server's first].")] = "",
    tokenizer: Annotated[str, typer.Option(help="Folder or hub name of its tokenizer [the model's name].")] = "",
    repository: Annotated[str, typer.Option(help="ORG/NAME of the model in the summary [its served name].")] = "",
    model_format: Annotated[str, typer.Option("--format", help="The weights' format, for the summary.")] = "unknown",
    digest: Annotated[
        str, typer.Option(help="Name of the weights: their answers are stored under it and reused [not stored].")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for the results, which `quantgate gate` reads.")] = Path(
        "runs/eval"
    ),
) -> None:
    """Test a model that is already served; write scores, per-item records and a summary."""
    from quantgate.components.report.summary import file_name, summary_of
    from quantgate.components.run.machine import gpus_here

    folder, console = out.absolute(), VisibleConsole(highlight=False)
    results = VariantResults(str(folder))
    locations = {
        "custom": options.custom_task_locations(values["custom"]),
        "data": options.rows_location(values["data"]),
        "irt_parameters": options.absolute_location(values["irt_parameters"]),
        "store": str(cache_dir()),
        "results": str(folder),
    }
    plan = options.plan_of(values | locations | {"variants": MODEL, "ledger": bool(digest)})
    plan = checks.check_questions(plan, tiny_stage=False)
    server = endpoint_server(endpoint, model, tokenizer, digest)
    plan = checks.with_template(plan, server.model_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results.scores(FULL).path.unlink(missing_ok=True)  # an earlier evaluation's
        results.records(FULL).path.touch()
    except OSError as error:
        message = f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        raise PrerequisiteError(message) from None
    with bar(console, "eval") as step:
        plan = prepared_plan(server, plan, step)
        scores = score_server(server, plan, step)
    scores.model_copy(update={"records": results.records(FULL).name}).write(results.scores(FULL).path)
    summary = summary_of(scores, repository or server.served_name, model_format, gpus_here(), datetime.now(UTC))
    summary.write(folder / file_name(summary))
    print_scores(scores, console)
    if left_out := ", ".join(f"{count:,} of {task}" for task, count in plan.too_long.items()):
        console.print(f"Too long for the server's window and left out: {left_out}", soft_wrap=True)
    console.print(f"Results  {results.scores(FULL).path}", soft_wrap=True)
    console.print(f"Summary  {folder / file_name(summary)}", soft_wrap=True)


def print_scores(scores: Scores, console: Console) -> None:
    """Print the scores as a table."""
    table = Table(box=None)
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "± stderr", "items", "shots", "cut"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in scores.tasks:
        error = f"{task.stderr:.4f}" if task.stderr else "–"
        row = f"{task.score:.4f}", error, f"{task.items:,}", str(task.shots), str(task.cut or "–")
        table.add_row(task.task, task.metric, *row)
        for name, value in task.estimates.items():
            table.add_row("", f"  {name}", f"{value:.4f}")
    console.print(f"{scores.suite}, rows: {scores.rows_source}", soft_wrap=True)
    console.print(table)
