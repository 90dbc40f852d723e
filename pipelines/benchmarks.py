"""The commands about benchmarks: `quantgate suites`, `mirror`, `eval`, `compare`."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from components import questions, stages
from components.artifacts import EvaluationPlan, Scores, Server
from components.errors import PrerequisiteError
from components.evaluate.suites import FULL, SUITES, suite_named
from components.gate.policy import use_case_named, use_case_names
from components.models import cache_dir
from components.progress import Step
from pipelines import options

if TYPE_CHECKING:
    from components.evaluate.sources import Source

RECORDS = "full.parquet"
MODEL = "model"
"""The variant's name in the results of `eval`."""


def suites() -> None:
    """List the suites: their tasks, with shots and items, and what each is sensitive to."""
    console = Console(highlight=False)
    for suite in SUITES.values():
        table = Table(title=f"{suite.name}: {suite.description}", title_justify="left", title_style="bold", box=None)
        for name in ("task", "metric"):
            table.add_column(name, no_wrap=True)
        for name in ("shots", "tiny", "items"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("sensitive to")
        for task in suite.tasks:
            numbers = str(task.shots), str(task.tiny) if task.tiny else "–", f"{task.full:,}"
            table.add_row(f"  {task.task}", task.metric, *numbers, task.sensitive_to)
        console.print(table)
        users = [name for name in use_case_names() if suite.name in use_case_named(name).suites]
        console.print(f"  for {', '.join(users)}\n" if users else "")


def mirror(
    suite: Annotated[str, typer.Argument(help=f"One suite or several, of {', '.join(SUITES)}.", show_default=False)],
    location: Annotated[str, typer.Argument(help="A folder, or s3://BUCKET/PREFIX.", show_default=False)],
    origin: Annotated[
        str, typer.Option("--from", help="Where rows come from: hub, or a folder of PATH/NAME/SPLIT.jsonl.")
    ] = questions.HUB,
    check: Annotated[bool, typer.Option("--check", help="Make nothing: read every file of a mirror again.")] = False,
) -> None:
    """Keep the rows of a suite where runs without a hub find them: quantgate run --data LOCATION."""
    from components.evaluate import mirror as mirrors
    from components.evaluate.harness import splits_wanted
    from components.evaluate.ifeval import WithPunkt
    from components.evaluate.sources import Folder, Hub

    place, console = options.placed(location), Console(highlight=False)
    wanted = [split for task in suite_named(suite).tasks for split in splits_wanted(task)]
    if check:
        faults = mirrors.check(place)
        known = mirrors.read_manifest(place)
        faults += [f"{split.file} is not there" for split in wanted if split.file not in (*known.files, *known.missing)]
        if faults:
            raise PrerequisiteError(f"{location} is no whole mirror of {suite}: {'; '.join(faults)}. Make it again.")
        console.print(f"{location} is whole: {len(known.files)} files.")
        return
    rows: Source = Hub(cache_dir()) if origin == questions.HUB else Folder(Path(origin))
    with bar(console, "mirror") as step:
        made = mirrors.make(wanted, WithPunkt(rows), place, lambda name, done, of: step.advance(done, of, name))
    console.print(f"{location} has {len(made.files)} files, {sum(each.rows for each in made.files.values()):,} rows.")
    for name in (split.file for split in wanted if split.file in made.missing):
        console.print(f"  {origin} has no {name}: shots come from the rows that are scored, the item itself left out.")


def evaluate(
    endpoint: Annotated[str, typer.Option(help="Base of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="The served model's name [the server's first].")] = "",
    suite: options.Suite = "demo",
    custom: options.Custom = None,
    limit: options.Limit = 0,
    data: options.Data = "",
    chat_template: options.ChatTemplate = False,
    tokenizer: Annotated[str, typer.Option(help="Folder or hub name of its tokenizer [the model's name].")] = "",
    repository: Annotated[str, typer.Option(help="ORG/NAME, as the summary calls the model [its name].")] = "",
    model_format: Annotated[str, typer.Option("--format", help="Its weights' format, for the summary.")] = "unknown",
    digest: Annotated[
        str, typer.Option(help="Whose answers these are: under this name they are kept and used again.")
    ] = "",
    irt_parameters: options.IrtParameters = "",
    out: Annotated[Path, typer.Option(help="Folder for the results, which `quantgate gate` reads.")] = Path(
        "runs/eval"
    ),
) -> None:
    """Test a model that is already served: scores, per-item records, and a summary."""
    from components.report.summary import file_name, gpus_here, summary_of

    folder, console = out.absolute(), Console(highlight=False)
    plan = EvaluationPlan(
        variants=(MODEL,),
        suite=suite,
        custom=options.sets(custom),
        limit=limit,
        data=options.rows(data),
        chat_template=chat_template,
        irt_parameters=options.placed(irt_parameters),
        ledger=bool(digest),
        store=str(cache_dir()),
        results=str(folder),
    )
    plan = questions.check_questions(plan)
    served = server(endpoint, model, tokenizer, digest)
    if chat_template:
        questions.check_chat_template(served.model_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "full.json").unlink(missing_ok=True)  # an earlier evaluation's
        (folder / RECORDS).touch()
    except OSError as error:
        what = f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        raise PrerequisiteError(what) from None
    with bar(console, "eval") as step:
        found = tested(served, questions.rows_at_hand(plan, step), step)
    found.model_copy(update={"records": RECORDS}).write(folder / "full.json")
    summary = summary_of(found, repository or served.served_name, model_format, gpus_here(), datetime.now(UTC))
    summary.write(folder / file_name(summary))
    show(found, console)
    console.print(f"Results  {folder / 'full.json'}", soft_wrap=True)
    console.print(f"Summary  {folder / file_name(summary)}", soft_wrap=True)


def tested(served: Server, plan: EvaluationPlan, step: Step) -> Scores:
    """What the server scores; raises PrerequisiteError with the reason when it fails."""
    from components.evaluate import evaluate as ask
    from components.evaluate.ledger import Ledger, ledger_file
    from components.execute.scores import scored

    asked, records = questions.questions_of(plan), Path(plan.results) / RECORDS
    with closing(Ledger(ledger_file(), served.identity)) if plan.ledger else nullcontext() as ledger:
        found = ask(served, asked, FULL, step, records, ledger)
    if found.failure:
        raise PrerequisiteError(found.failure)
    if asked.suite.programs:
        found = scored(found, asked.suite, records, step, chat_template=plan.chat_template)
    return stages.estimated(found, plan, records)


def server(endpoint: str, model: str, tokenizer: str, digest: str) -> Server:
    """The server as the evaluation wants to know it; raises PrerequisiteError when nothing usable answers."""
    from components.evaluate.abilities import abilities
    from components.evaluate.client import Client

    client = Client(endpoint, model)
    found = abilities(client)
    name = f"{digest} on vLLM {found.version}, {client.root}"
    return Server(
        variant=MODEL,
        url=f"{client.root}/v1",
        served_name=client.model,
        model_path=tokenizer_of(tokenizer or client.model),
        max_model_len=found.max_model_len,
        engine=f"vLLM {found.version}",
        identity=name,
        log="at the server",
    )


def tokenizer_of(name: str) -> str:
    """The tokenizer's folder or hub name; raises PrerequisiteError when it cannot be had."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise PrerequisiteError(f"There is no tokenizer {name}: {what} Name its folder with --tokenizer.") from error
    return name


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


def compare(
    one: Annotated[Path, typer.Argument(help="A summary that `quantgate eval` wrote.", show_default=False)],
    other: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print it for a script.")] = False,
) -> None:
    """Set two summaries side by side. It is no verdict: `quantgate gate` pairs the answers item by item."""
    from components.report.summary import compare as beside
    from components.report.summary import compared_json, read_summary

    first, second = read_summary(one), read_summary(other)
    if as_json:
        print(compared_json(first, second))
    else:
        Console(highlight=False).print(beside(first, second))


class Bar(Step):
    """A step that moves a bar instead of printing lines."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        super().__init__(None, "", "")
        self.progress, self.task = progress, task

    def tell(self, state: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=done, total=total or None, description=note or state)


@contextmanager
def bar(console: Console, name: str) -> Iterator[Step]:
    """A bar for the time of the block in a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield Step(None, name, "")
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, progress.add_task("", total=None))
