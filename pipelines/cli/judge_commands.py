"""The commands for replies that a judge or people judge: `quantgate judge`, `arena`, `vibe`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.chat_questions import MT_BENCH
from quantgate.components.judging.judging_options import (
    ENOUGH,
    JUDGE_CONCURRENCY,
    JUDGE_MAX_TOKENS,
    JUDGE_TIMEOUT_S,
    KEY,
    MAX_TOKENS,
    MODEL_CONCURRENCY,
    MOST,
    JudgeOptions,
    Panel,
)
from quantgate.pipelines import options
from quantgate.pipelines.cli.progress_bar import bar
from quantgate.pipelines.cli.run_options import takes
from quantgate.pipelines.terminal_output import VisibleConsole, print_text

if TYPE_CHECKING:
    from quantgate.components.judging.judged_results import JudgedResult

WHERE = "a server's URL, a JSONL file of replies, or the folder of a run's variant while it is served"
BASELINE_OPTION = typer.Option(help=f"The baseline, [NAME=]WHERE: {WHERE}.", show_default=False)
MODEL_OPTION = typer.Option(help="Served names, the baseline's first, then each variant's [each server's first].")


def judge_options(
    judge: Annotated[str, typer.Option(help="Base URL of the judge's OpenAI-compatible API.", show_default=False)],
    judge_model: Annotated[str, typer.Option(help="The judge's served name.", show_default=False)],
    judge_key: Annotated[str, typer.Option(help="Name of the environment variable with its API key.")] = "",
    judge_digest: Annotated[
        str, typer.Option(help="Digest of its weights, if you know it: compared with the models'.")
    ] = "",
    judge_concurrency: Annotated[int, typer.Option(min=1, help="Requests to the judge at a time.")] = JUDGE_CONCURRENCY,
    judge_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = JUDGE_TIMEOUT_S,
    judge_max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of its answer.")] = JUDGE_MAX_TOKENS,
) -> JudgeOptions:
    """Which judge, and how it is asked."""
    return JudgeOptions(judge, judge_model, judge_key, judge_concurrency, judge_timeout, judge_digest, judge_max_tokens)


def panel_of(
    baseline: Annotated[str, BASELINE_OPTION],
    variant: Annotated[list[str], typer.Option(help="A variant, the same; may be repeated.", show_default=False)],
    model: Annotated[list[str] | None, MODEL_OPTION] = None,
    questions: Annotated[str, typer.Option(help=f"{MT_BENCH}, or a JSONL file of prompts.")] = MT_BENCH,
    data: Annotated[str, typer.Option(help="Where MT-Bench's rows come from: hub, or a mirror.")] = "hub",
    references: Annotated[
        Path | None, typer.Option(help="Reference answers, as FastChat's reference_answer/*.jsonl.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many questions, of all categories [0: all].")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for replies, judgements and results; a rerun goes on.")] = Path(
        "runs/judged"
    ),
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")] = MAX_TOKENS,
    seed: Annotated[int, typer.Option(help="Of the models' sampling.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to each model at a time.")] = MODEL_CONCURRENCY,
) -> Panel:
    """The models and the questions."""
    return Panel(
        baseline=baseline,
        variants=tuple(variant),
        models=tuple(model or ()),
        questions=questions,
        data=options.rows_location(data),
        references=references,
        out=out.absolute(),
        limit=limit,
        max_tokens=max_tokens,
        seed=seed,
        concurrency=concurrency,
    )


@takes(panel=panel_of, asked=judge_options)
def judge(
    panel: Panel,
    asked: JudgeOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for a script.")] = False,
) -> None:
    """Let a judge grade replies from 1 to 10, MT-Bench's by default, and compare the grades question by question."""
    from quantgate.pipelines.judged_models import judge_panel

    console = VisibleConsole(highlight=False)
    with bar(console, "judge", lines_to_stderr=True) as step:
        result = judge_panel(panel, asked, "grades", step)
    print_result(result, panel.out, as_json=as_json)


@takes(panel=panel_of, asked=judge_options)
def arena(
    panel: Panel,
    asked: JudgeOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for a script.")] = False,
) -> None:
    """Let a judge compare each variant's replies with the baseline's, in both orders: win rate and strength."""
    from quantgate.pipelines.judged_models import judge_panel

    console = VisibleConsole(highlight=False)
    with bar(console, "arena", lines_to_stderr=True) as step:
        result = judge_panel(panel, asked, "arena", step)
    print_result(result, panel.out, as_json=as_json)


def vibe(
    prompts: Annotated[
        Path | None,
        typer.Argument(
            help=f"JSONL file of {ENOUGH} to {MOST} prompts: prompt, turns or messages.", show_default=False
        ),
    ] = None,
    baseline: Annotated[str, BASELINE_OPTION] = "",
    variant: Annotated[str, typer.Option(help="The variant, the same.", show_default=False)] = "",
    model: Annotated[list[str] | None, MODEL_OPTION] = None,
    votes: Annotated[
        list[Path] | None, typer.Option(help="Votes that the page downloaded: read them; may be repeated.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help=f"The page's key, to read votes [{KEY} in --out].")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page, its key and the results.")] = Path("runs/vibe"),
    seed: Annotated[
        int | None, typer.Option(help="Of the order and the sides on the page [random, kept in the key].")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most prompts on the page.")] = MOST,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")] = MAX_TOKENS,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to each model at a time.")] = MODEL_CONCURRENCY,
    as_json: Annotated[bool, typer.Option("--json", help="Print the votes' result for a script.")] = False,
) -> None:
    """Make a page on which people compare the replies of two models blind, or read their votes back with --votes."""
    from quantgate.pipelines.judged_models import judged_by_people, made_page

    console, folder = VisibleConsole(highlight=False), out.absolute()
    if votes:
        print_result(judged_by_people(votes, key or folder / KEY), folder, as_json=as_json)
        return
    if prompts is None or not baseline or not variant:
        raise PrerequisiteError(
            "Name a file of prompts and both models: quantgate vibe PROMPTS.jsonl --baseline URL --variant URL. Or "
            "read votes back: quantgate vibe --votes FILE"
        )
    panel = Panel(
        baseline=baseline,
        variants=(variant,),
        models=tuple(model or ()),
        questions=str(prompts),
        out=folder,
        limit=limit,
        max_tokens=max_tokens,
        concurrency=concurrency,
    )
    with bar(console, "vibe", lines_to_stderr=True) as step:
        page, made, failures = made_page(panel, seed, step)
    for one in failures:
        console.print(
            f"Left out: {one.question}, as {one.model} has no reply: {one.reason}", soft_wrap=True, markup=False
        )
    count = len(made.entries)
    if count < ENOUGH:
        console.print(f"{count} prompts show only a large difference; {ENOUGH} to {MOST} are usual.", soft_wrap=True)
    console.print(f"Page   {page}: open it in a browser, or send it to others", soft_wrap=True)
    console.print(f"Key    {folder / KEY}: do not send it along", soft_wrap=True)
    console.print(f"Votes  quantgate vibe --out {folder} --votes FILE", soft_wrap=True)


def print_result(result: "JudgedResult", folder: Path, *, as_json: bool) -> None:
    """Write the result's files, and print it."""
    from quantgate.components.report.judged_pages import judged_table, notes, title, write_judged
    from quantgate.pipelines.judged_models import result_json

    data, html, _ = write_judged(result, folder)
    if as_json:
        print_text(result_json(result))
        return
    console = VisibleConsole(highlight=False)
    console.print(f"{title(result)}.", soft_wrap=True, markup=False)
    console.print(judged_table(result))
    for note in notes(result):
        console.print(note, soft_wrap=True, markup=False)
    console.print(f"Report   {html}", soft_wrap=True)
    console.print(f"Scripts  {data}", soft_wrap=True)
