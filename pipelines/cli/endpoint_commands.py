"""The commands about a server that runs already: `quantgate eval`, `doctor`, `lm-eval`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from components.errors import PrerequisiteError
from components.resolve import checks, rows
from components.run.artifacts import Scores
from components.run.results import FULL, VariantResults
from components.storage.cache import cache_dir
from pipelines import options
from pipelines.cli.progress_bar import bar
from pipelines.cli.run_options import takes
from pipelines.served_model import MODEL, endpoint_server, tested

ADVICE = {
    "suffix": "suffix, and read where all choices are one token.",
    "read": "read after long contexts, echo (if it works) after short ones.",
    "echo": "echo, which computes every prompt anew: slow for many shots.",
}


def doctor(
    endpoint: Annotated[str, typer.Option(help="Base of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="The served model's name [the server's first].")] = "",
) -> None:
    """Say how a server can be scored: which ways it offers, which is used, and why."""
    from components.servers.abilities import WHAT, abilities
    from components.servers.client import Client

    client = Client(endpoint, model)
    found = abilities(client)
    console = Console(soft_wrap=True, highlight=False)
    length = f"{found.max_model_len} tokens" if found.max_model_len else "a length it does not tell"
    console.print(f"{client.root} serves {client.model} (vLLM {found.version}, {length})", markup=False)
    for each in found.tried:
        told = f"exact: within {each.difference:.4f} of the slowest way" if not each.trouble else each.trouble
        console.print(f"  {'✔' if not each.trouble else '✘'} {each.kind:7} {WHAT[each.kind]}: {told}", markup=False)
    used = [each.kind for each in found.tried if each.kind in found.kinds]
    console.print(f"Used: {ADVICE[used[0]]}", markup=False)


def lm_eval_command(context: typer.Context) -> None:
    """Run lm-evaluation-harness with quantgate's model `vllm-endpoint`; its options follow."""
    from lm_eval.__main__ import cli_evaluate

    from components.evaluate import endpoint  # registers the model

    print(f"quantgate: --model {endpoint.NAME} is here; its --model_args: {endpoint.ARGUMENTS}", file=sys.stderr)
    sys.argv = ["lm-eval", *context.args]
    cli_evaluate()


@takes(given=options.given_options(["suite", "custom", "limit", "data", "chat_template", "irt_parameters"]))
def evaluate(
    given: dict[str, Any],
    endpoint: Annotated[str, typer.Option(help="Base of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="The served model's name [the server's first].")] = "",
    tokenizer: Annotated[str, typer.Option(help="Folder or hub name of its tokenizer [the model's name].")] = "",
    repository: Annotated[str, typer.Option(help="ORG/NAME, as the summary calls the model [its name].")] = "",
    model_format: Annotated[str, typer.Option("--format", help="Its weights' format, for the summary.")] = "unknown",
    digest: Annotated[
        str, typer.Option(help="Whose answers these are: under this name they are kept and used again.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for the results, which `quantgate gate` reads.")] = Path(
        "runs/eval"
    ),
) -> None:
    """Test a model that is already served: scores, per-item records, and a summary."""
    from components.report.summary import file_name, summary_of
    from components.run.machine import gpus_here

    folder, console = out.absolute(), Console(highlight=False)
    here = VariantResults(str(folder))
    places = {
        "custom": options.sets(given["custom"]),
        "data": options.rows(given["data"]),
        "irt_parameters": options.placed(given["irt_parameters"]),
        "store": str(cache_dir()),
        "results": str(folder),
    }
    plan = options.plan_of(given | places | {"variants": MODEL, "ledger": bool(digest)})
    plan = checks.check_questions(plan)
    served = endpoint_server(endpoint, model, tokenizer, digest)
    if plan.chat_template:
        checks.check_chat_template(served.model_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        here.scores(FULL).path.unlink(missing_ok=True)  # an earlier evaluation's
        here.records(FULL).path.touch()
    except OSError as error:
        what = f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        raise PrerequisiteError(what) from None
    with bar(console, "eval") as step:
        found = tested(served, rows.rows_at_hand(plan, step), step)
    found.model_copy(update={"records": here.records(FULL).name}).write(here.scores(FULL).path)
    summary = summary_of(found, repository or served.served_name, model_format, gpus_here(), datetime.now(UTC))
    summary.write(folder / file_name(summary))
    show(found, console)
    console.print(f"Results  {here.scores(FULL).path}", soft_wrap=True)
    console.print(f"Summary  {folder / file_name(summary)}", soft_wrap=True)


def show(found: Scores, console: Console) -> None:
    """Print the scores."""
    table = Table(box=None)
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "± stderr", "items", "shots", "cut"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found.tasks:
        error = f"{each.stderr:.4f}" if each.stderr else "–"
        row = f"{each.score:.4f}", error, f"{each.items:,}", str(each.shots), str(each.cut or "–")
        table.add_row(each.task, each.metric, *row)
        for name, value in each.estimates.items():
            table.add_row("", f"  {name}", f"{value:.4f}")
    console.print(f"{found.suite}, rows: {found.rows_source}", soft_wrap=True)
    console.print(table)
