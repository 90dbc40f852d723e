"""The command `quantgate gate`: decide on saved results."""

from pathlib import Path
from typing import Annotated

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import read_use_case, use_case_named, use_case_names
from quantgate.pipelines.cli.run_options import takes
from quantgate.pipelines.exits import exit_of
from quantgate.pipelines.terminal_output import VisibleConsole, print_text
from quantgate.pipelines.verdict_files import VerdictFiles, verdict_files


@takes(files=verdict_files)
def gate(
    files: VerdictFiles,
    baseline: Annotated[Path, typer.Option(help="Folder of the baseline's results.", show_default=False)],
    variant: Annotated[
        list[Path], typer.Option(help="Folder of a variant's results; may be repeated.", show_default=False)
    ],
    policy: Annotated[
        str, typer.Option(help=f"A policy file, or a use case: {', '.join(use_case_names())}.")
    ] = "general-chat",
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to compare in lm-eval's samples, NAME or NAME,FILTER [the task's usual metric]."),
    ] = None,
    check_power: Annotated[
        bool,
        typer.Option(
            "--check-power/--no-check-power",
            help="Refuse answers that are too few for even a perfect copy of the baseline to pass.",
        ),
    ] = True,
    attempt: Annotated[
        int,
        typer.Option(min=0, help="Number of this attempt: variants made and judged until one passes [0: uncounted]."),
    ] = 0,
    attempt_run: Annotated[
        int, typer.Option(min=1, help="Number of this run of the attempt: the same weights on more questions.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts for a script.")] = False,
) -> None:
    """Decide on saved results: those of a run, or lm-eval's own.

    A folder is runs/NAME/variants/VARIANT, or the output of lm-eval with --output_path and --log_samples. The worst
    verdict sets the exit status: 0 ship or monitor, 3 inconclusive, 1 reject or A/B test, 4 not comparable or failed; 2
    means that the arguments are wrong, or that not even a copy of the baseline could pass with so few answers.

    Saved results have no record of attempts. Whoever judges again until a variant passes says which attempt it is.
    """
    from quantgate.components.evidence.forecast import forecast
    from quantgate.components.evidence.prospects import check_copy_passes
    from quantgate.components.gate.saved import decide_read, read_saved
    from quantgate.components.gate.saved_prospect import prospect_of_saved
    from quantgate.components.report.matrix import verdicts_json
    from quantgate.components.report.terminal import terminal_evidence, terminal_matrix
    from quantgate.components.run.attempts import Attempt

    console = VisibleConsole(highlight=False)
    with files.prepared():
        if attempt_run > 1 and not attempt:
            raise PrerequisiteError("--attempt-run needs --attempt: the attempt that this run continues.")
        use_case = use_case_named(policy) if policy in use_case_names() else read_use_case(Path(policy))
        counted = Attempt(number=attempt, run=attempt_run) if attempt else None
        folders = [baseline, *variant]
        candidates = read_saved(use_case, folders, metric or ())
        prospect = prospect_of_saved(use_case, candidates, counted)
        if prospect and check_power:
            check_copy_passes(prospect)
        if prospect and not as_json:
            console.print(forecast(prospect), markup=False)
            console.print()
        decision = decide_read(use_case, folders, candidates, counted)
        files.write(decision)
    if as_json:
        print_text(verdicts_json(decision))
    else:
        for table in (terminal_matrix(decision), *terminal_evidence(decision)):
            console.print(table)
    raise typer.Exit(exit_of(row.verdict for row in decision.verdicts[1:]))
