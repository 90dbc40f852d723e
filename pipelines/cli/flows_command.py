"""The command `quantgate flows`: what the application asks, of a model that is already served."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.judging_options import JudgeOptions, named_judge
from quantgate.components.run.artifacts import FLOWS, Scores
from quantgate.components.run.results import FULL, VariantResults
from quantgate.pipelines import options
from quantgate.pipelines.cli.progress_bar import bar
from quantgate.pipelines.cli.run_options import takes
from quantgate.pipelines.terminal_output import VisibleConsole

if TYPE_CHECKING:
    from quantgate.components.flow_cases.exchanges import FlowExchange
    from quantgate.components.flow_cases.flow_file import FlowSet
    from quantgate.components.judging.judge_endpoint import Judge
    from quantgate.components.judging.kept_lines import KeptLines
    from quantgate.components.run.records import Record
    from quantgate.components.servers.client import Client

ALPHA = 0.05
JUDGEMENTS = "judgements.jsonl"
BROKEN_SHOWN = 10
ROWS_OF_BFCL = "Source of the rows of bfcl:N: a mirror from `quantgate mirror --bfcl` [the hub]."
FLOW_OPTIONS = ["flows", "data", "judge", "judge_model", "judge_key"]


@takes(values=options.collect_options(FLOW_OPTIONS, flows={"default": ...}, data={"help": ROWS_OF_BFCL}))
def flows(
    values: dict[str, Any],
    endpoint: Annotated[
        str,
        typer.Option(help="Base of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1; its key: $OPENAI_API_KEY."),
    ],
    model: Annotated[str, typer.Option(help="The served model's name [the server's first].")] = "",
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of an earlier result of this command, to compare with.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for scores, records and every request and answer.")] = Path(
        "runs/flows"
    ),
) -> None:
    """Ask a served model what your application asks, and check its answers.

    Each check passes or fails; nothing is judged by a policy. With --baseline: what this model lost, case by case.
    """
    from quantgate.components.flow_cases.exchanges import read_exchanges
    from quantgate.components.flow_cases.flow_sources import flow_set, read_flows
    from quantgate.components.flows.asked_alone import asked_alone
    from quantgate.components.flows.checked import unscored_of
    from quantgate.components.servers.client import Client

    console, results = VisibleConsole(highlight=False), VariantResults(str(out.absolute()))
    asked = flow_set(read_flows(values["flows"], options.rows_location(values["data"])))
    check_baseline(baseline, out)
    prepare(out.absolute())
    client = Client(endpoint, model)
    judge = named_judge(values["judge"], values["judge_model"], values["judge_key"])
    decides = judge_of_rubrics(judge, asked, client, baseline, out.absolute())
    with bar(console, FLOWS, lines_to_stderr=True) as step:
        asked, exchanges = asked_alone(client, asked, step, decides)
    scores, rows = saved(results, asked, exchanges)
    print_left_out(asked, console)
    unscored = unscored_of(asked, exchanges)
    if baseline:
        earlier = unscored_of(asked, read_exchanges(VariantResults(str(baseline)).transcripts.path))
        both = {task: sorted(unscored.get(task, set()) | earlier.get(task, set())) for task in {*unscored, *earlier}}
        print_losses(baseline, out, rows, console, both)
    else:
        print_passed(scores, console)
        both = {task: sorted(ids) for task, ids in unscored.items()}
    print_unscored(both, exchanges, console)
    console.print(f"Results  {results.scores(FULL).path}", soft_wrap=True)
    console.print(f"Answers  {results.transcripts.path}", soft_wrap=True)


def saved(results: VariantResults, asked: "FlowSet", exchanges: "list[FlowExchange]") -> "tuple[Scores, list[Record]]":
    """The scores and the records of the answers, after writing both and the transcript."""
    from quantgate.components.flow_cases.exchanges import write_exchanges
    from quantgate.components.flows.asked_alone import MODEL
    from quantgate.components.flows.checked import records_of, task_scores
    from quantgate.components.run import records

    for file in (results.scores(FULL), results.records(FULL), results.transcripts):
        file.path.unlink(missing_ok=True)
    rows = records_of(MODEL, asked, exchanges)
    scores = Scores(variant=MODEL, suite=FLOWS, stage=FULL, tasks=task_scores(asked, rows))
    write_exchanges(exchanges, results.transcripts.path)
    records.write(rows, results.records(FULL).path)
    scores = scores.model_copy(update={"records": results.records(FULL).name})
    scores.write(results.scores(FULL).path)
    return scores, rows


def check_baseline(baseline: Path | None, out: Path) -> None:
    """Raise PrerequisiteError unless the folder has records, which the new result does not replace."""
    if baseline and baseline.resolve() == out.resolve():
        raise PrerequisiteError(f"--baseline and --out are the same folder, {baseline}. Choose another --out.")
    if baseline and not VariantResults(str(baseline)).records(FULL).path.exists():
        raise PrerequisiteError(f"{baseline} has no result of `quantgate flows`. Give the folder of its --out.")


def prepare(folder: Path) -> None:
    """Make the folder; raises PrerequisiteError when it cannot be written. An earlier result stays for now."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        raise PrerequisiteError(message) from None


def print_left_out(asked: "FlowSet", console: Console) -> None:
    """Print what was not asked, and why."""
    from quantgate.components.report.flow_table import left_out_text

    for reason in dict.fromkeys(flow.refused for flow in asked.flows if flow.refused):
        ids = [flow.id for flow in asked.flows if flow.refused == reason]
        console.print(f"{left_out_text(len(ids))}, because {reason}: {', '.join(ids)}", soft_wrap=True, markup=False)
    for note in asked.notes:
        console.print(f"Left out of {note}", soft_wrap=True, markup=False)


def print_passed(scores: Scores, console: Console) -> None:
    """Print the share of each task's items that passed."""
    table = Table(box=None)
    table.add_column("task", no_wrap=True)
    for name in ("passed", "of"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in scores.tasks:
        table.add_row(task.task, f"{task.score:.3f}", f"{task.items:,}")
    console.print(table)


def judge_of_rubrics(
    judge: JudgeOptions | None, asked: "FlowSet", client: "Client", baseline: Path | None, out: Path
) -> "Judge | None":
    """The judge, after the check that it is neither the model nor the baseline; None if no flow has a rubric."""
    from quantgate.components.flow_cases.exchanges import read_exchanges
    from quantgate.components.flow_cases.planned_flows import check_judge
    from quantgate.components.judging.contestants import KEY_ADVICE
    from quantgate.components.judging.judge_endpoint import Judge
    from quantgate.components.judging.judge_identity import ServedModel, served_model
    from quantgate.components.judging.kept_lines import KeptLines

    check_judge(asked.flows, judge.url if judge else "")
    if judge is None:
        return None
    judged = [("the model", served_model(client, KEY_ADVICE))]
    if baseline:
        sent = [
            request.sent
            for one in read_exchanges(VariantResults(str(baseline)).transcripts.path)
            for request in one.requests
        ]
        judged += [("the baseline", ServedModel(name)) for name in sorted({str(body["model"]) for body in sent})]
    named = Judge(judge, judged, KeptLines(out / JUDGEMENTS))
    if baseline:
        check_same_judge(named, KeptLines(baseline / JUDGEMENTS))
    return named


def check_same_judge(judge: "Judge", earlier: "KeptLines") -> None:
    """Raise PrerequisiteError when another judge, or another version of its prompt, decided the baseline's rubrics."""
    from quantgate.components.judging.judge_prompts import PROMPTS

    for line in earlier.lines.values():
        if (line["judge"], line["judge_digest"]) != (judge.served.model, judge.served.digest):
            other = f"{line['judge']} decided the baseline's rubrics, and {judge.served.model} would decide these"
        elif line["prompt"] in PROMPTS and line["prompt_sha256"] != PROMPTS[line["prompt"]].sha256:
            other = f"the baseline's rubrics were decided with version {line['prompt_version']} of the prompt"
        else:
            continue
        raise PrerequisiteError(f"The two results are not comparable: {other}. Ask the baseline again with this judge.")


def print_unscored(unscored: dict[str, list[str]], exchanges: "list[FlowExchange]", console: Console) -> None:
    """Print how many items have no score, and the first reason."""
    if not any(unscored.values()):
        return
    counts = ", ".join(f"{len(ids)} of {task}" for task, ids in sorted(unscored.items()) if ids)
    console.print(f"Without a verdict of the judge, and counted for no model: {counts}", soft_wrap=True, markup=False)
    reasons = [check.reason for one in exchanges for check in one.checks if check.passed is None]
    if reasons:
        console.print(f"  {reasons[0]}", soft_wrap=True, markup=False)


def print_losses(
    baseline: Path, out: Path, rows: "list[Record]", console: Console, unscored: dict[str, list[str]]
) -> None:
    """Print each task before and after, and the cases that broke."""
    from quantgate.components.evidence.saved_answers import read_records
    from quantgate.components.flow_cases.losses import losses
    from quantgate.components.gate.flipped_items import flips
    from quantgate.components.run import records

    earlier, later = (VariantResults(str(folder)).records(FULL).path for folder in (baseline, out))
    table = Table(box=None)
    table.add_column("task", no_wrap=True)
    for name in ("of", "before", "after", "lost", "gained", "loses at most"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in losses(read_records(earlier), read_records(later), ALPHA, unscored):
        bound = "–" if row.at_most is None else f"{100 * row.at_most:.1f} %"
        numbers = (f"{row.items:,}", f"{row.before:.3f}", f"{row.after:.3f}", f"{row.lost:,}", f"{row.gained:,}")
        table.add_row(row.task, *numbers, bound)
    console.print(table)
    console.print(f"Loses at most: of such cases that the baseline passes, with {100 * (1 - ALPHA):.0f} % confidence.")
    broken = [flip for flip in flips(records.read(earlier), rows) if flip.lost and flip.task == FLOWS]
    for flip in broken[:BROKEN_SHOWN]:
        console.print(f"\n{flip.question}\n  {flip.reason}", markup=False, soft_wrap=True)
        for name, answer in (("before", flip.before), ("after ", flip.after)):
            console.print(f"  {name}: {' '.join(answer.split())[:300]}", markup=False, soft_wrap=True)
    if len(broken) > BROKEN_SHOWN:
        console.print(f"\nand {len(broken) - BROKEN_SHOWN} more, see the records in {later}")
