"""The command `quantgate power`: what a run can show, before it starts."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from components.benchmarks.selection import suite_of
from components.errors import PrerequisiteError
from components.flow_cases.planned_flows import planned_flow_tasks
from components.policies.policy import check_use_case, chosen
from components.resolve.checks import with_suite
from pipelines import options
from pipelines.cli.run_options import takes
from pipelines.terminal_output import VisibleConsole, print_text

OPTIONS = (
    *("variants", "suite", "use_case", "policy", "custom", "trust_tasks", "limit", "flows"),
    *("samples", "temperature", "stop_early"),
)
"""The options of a run that change what it can show."""


@takes(values=options.collect_options(OPTIONS))
def power(
    values: dict[str, Any],
    score: Annotated[float, typer.Option(min=0.01, max=1, help="The baseline's assumed score on each task.")] = 0.6,
    int8_flips: Annotated[float, typer.Option(min=0, max=1, help="Assumed share of answers that INT8 flips.")] = 0.02,
    int4_flips: Annotated[float, typer.Option(min=0, max=1, help="The same for INT4.")] = 0.08,
    int4_drop: Annotated[
        float, typer.Option(min=0, max=0.9, help="Assumed drop of INT4, as a share of the baseline's score.")
    ] = 0.01,
    draws: Annotated[int, typer.Option(min=10, help="Simulated runs.")] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers for a script.")] = False,
) -> None:
    """Show what a run with these options can prove: the chance of each verdict, and how many questions are enough.

    Nothing is started. The gate's own tests judge simulated answers. The exit status is 0, or 2 if not even a copy of
    the baseline can pass.
    """
    from components.evidence.assumed_answers import LOSSLESS, TYPICAL
    from components.evidence.prospects import check_copy_passes, outlook, ships_by_answers
    from components.report.prospect_table import prospect_json, prospect_tables
    from components.resolve.planned_evidence import prospect_of

    plan = with_suite(options.plan_of(values | {"store": "", "results": ""}))
    tasks = [*(task.task for task in suite_of(plan).tasks), *planned_flow_tasks(plan)]
    check_use_case(chosen(plan.use_case, plan.policy), tasks)
    prospect = prospect_of(plan, score)
    if prospect is None:
        raise PrerequisiteError(
            f"The suite {plan.suite} has no task with scores, or does not say how many items its tasks have. Add"
            " `items:` to the tasks of its file, or choose another suite."
        )
    assumed = (replace(LOSSLESS, flips=int8_flips), replace(TYPICAL, flips=int4_flips, drop=int4_drop))
    shown = replace(outlook(prospect, assumed, draws), by_answers=ships_by_answers(prospect, assumed[0], draws))
    if as_json:
        print_text(prospect_json(shown))
    else:
        console = VisibleConsole(highlight=False)
        for part in prospect_tables(shown):
            console.print(part)
    check_copy_passes(prospect)
