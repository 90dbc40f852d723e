"""The command `quantgate card`: a variant's model card."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from quantgate.components.run.results import RunResults
from quantgate.pipelines.decided_run import best_variant, checked_decision, write_files
from quantgate.pipelines.terminal_output import print_text


def card(
    run: Annotated[
        str,
        typer.Argument(help="The run's results: a folder, e.g. runs/demo, or s3://BUCKET/PREFIX.", show_default=False),
    ],
    variant: Annotated[str, typer.Argument(help="The variant [the best of the run].", show_default=False)] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the card and .eval_results/ [print the card].")
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="A further benchmark of the hub, TASK=DATASET:TASK_ID; may be repeated."),
    ] = None,
    source: Annotated[str, typer.Option(help="Address of a page about the results, for .eval_results/.")] = "",
) -> None:
    """Write a variant's model card, and its scores for the Hugging Face hub.

    The card has the recovery on each benchmark with its bounds, the protocol, the digests and the limits. The decision
    must be the one that the gate wrote.
    """
    from quantgate.components.report.hub_results import parsed_benchmark
    from quantgate.components.report.model_card import CARD, card_files
    from quantgate.components.tracking.facts import RunFacts

    benchmarks = dict(map(parsed_benchmark, benchmark or ()))
    results = RunResults(run)
    decision, facts = checked_decision(results), results.facts.read(RunFacts)
    at = datetime.fromtimestamp(facts.started_at, UTC) if facts and facts.started_at else None
    files = card_files(decision, variant or best_variant(decision), at, source, benchmarks)
    if out:
        write_files(out, files)
    else:
        print_text(files[CARD])
