"""Recurring runs on Kubeflow Pipelines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import PrerequisiteError
from pipelines.kubeflow.run_parameters import checked

if TYPE_CHECKING:
    from kfp_server_api import models as api

    from pipelines.kubeflow.connection import Kubeflow, Place

HOURLY = "0 * * * *"
FIELDS = 5


def list_schedules(place: "Place") -> None:
    """Print a line a schedule."""
    from pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        show(recurring(kubeflow))


def remove_schedule(place: "Place", name: str) -> None:
    """Remove the schedule of that name; a run that it has started goes on."""
    from pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        remove(kubeflow, name)


def schedule_runs(
    place: "Place",
    parameters: dict[str, object],
    name: str,
    cron: str,
    pipeline: Path,
    service_account: str,
    *,
    on_new_model: bool,
) -> None:
    """Make the schedule of that name, in place of one that has it."""
    from pipelines.kubeflow.connection import connected
    from pipelines.kubeflow.runs import experiment_id, read_pipeline, upload

    when = six_fields(cron or (HOURLY if on_new_model else ""))
    if on_new_model:
        if not parameters["tracking_uri"]:
            raise PrerequisiteError("Earlier verdicts are looked up in MLflow: name it with --tracking-uri.")
        parameters["skip_judged"] = True
    file = checked(read_pipeline(pipeline), parameters)
    with connected(place) as kubeflow:
        version = upload(kubeflow, file)
        wanted = recurring_run(name, when, parameters)
        wanted.experiment_id = experiment_id(kubeflow)
        wanted.pipeline_version_reference = version.reference
        wanted.service_account = service_account or None
        replace(kubeflow, wanted)
    print(f"{name}: {cron or HOURLY} UTC, {version.name}")


def recurring_run(name: str, when: str, parameters: dict[str, object]) -> "api.V2beta1RecurringRun":
    """A schedule that starts one run at a time and makes up for none."""
    from kfp_server_api import models as api

    return api.V2beta1RecurringRun(
        display_name=name,
        mode=api.RecurringRunMode.ENABLE,
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=when)),
        no_catchup=True,
        max_concurrency="1",
        runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
    )


def six_fields(cron: str) -> str:
    """The expression as Kubeflow reads it: with seconds in front. Five fields it would take for second to month."""
    if not cron:
        raise PrerequisiteError('Say when: --cron "0 3 * * 1" is Mondays at three, or --on-new-model.')
    if len(cron.split()) != FIELDS:
        raise PrerequisiteError(
            f'--cron "{cron}" has {len(cron.split())} fields. Give five: minute, hour, day, month, weekday.'
        )
    return f"0 {' '.join(cron.split())}"


def replace(kubeflow: "Kubeflow", wanted: "api.V2beta1RecurringRun") -> None:
    """Make the schedule, then remove those of its name: whatever fails in between, there is one."""
    from pipelines.kubeflow.connection import ANSWER_S

    before = [each for each in recurring(kubeflow) if each.display_name == wanted.display_name]
    with kubeflow.asked_to("make the schedule"):
        kubeflow.client.recurring_runs.recurring_run_service_create_recurring_run(wanted, _request_timeout=ANSWER_S)
    for each in before:
        discard(kubeflow, each)


def remove(kubeflow: "Kubeflow", name: str) -> None:
    """Remove the schedule of that name; a run that it has started goes on."""
    everything = recurring(kubeflow)
    found = [each for each in everything if each.display_name == name]
    if not found:
        names = ", ".join(sorted({each.display_name for each in everything})) or "none"
        raise PrerequisiteError(f"There is no schedule {name}. There are: {names}.")
    for each in found:
        discard(kubeflow, each)
    print(f"{name}: removed")


def discard(kubeflow: "Kubeflow", schedule: Any) -> None:
    """Remove one schedule."""
    from pipelines.kubeflow.connection import ANSWER_S

    with kubeflow.asked_to(f"remove the schedule {schedule.display_name} ({schedule.recurring_run_id})"):
        kubeflow.client.recurring_runs.recurring_run_service_delete_recurring_run(
            schedule.recurring_run_id, _request_timeout=ANSWER_S
        )


def recurring(kubeflow: "Kubeflow") -> list[Any]:
    """All schedules of our experiment."""
    from pipelines.kubeflow.connection import ANSWER_S
    from pipelines.kubeflow.runs import experiment_id

    found: list[Any] = []
    ours, page = experiment_id(kubeflow), ""
    with kubeflow.asked_to("list the schedules"):
        while True:
            answer = kubeflow.client.recurring_runs.recurring_run_service_list_recurring_runs(
                experiment_id=ours, page_token=page, page_size=100, _request_timeout=ANSWER_S
            )
            found += answer.recurring_runs or []
            page = answer.next_page_token or ""
            if not page:
                return found


def show(schedules: list[Any]) -> None:
    """A line a schedule."""
    for each in schedules:
        when = each.trigger.cron_schedule.cron if each.trigger and each.trigger.cron_schedule else "by an interval"
        given = each.runtime_config.parameters if each.runtime_config else {}
        new = ", new models only" if given.get("skip_judged") else ""
        print(f"{each.display_name}: {when.removeprefix('0 ')} UTC{new}, {given.get('model', '')}, {each.status or ''}")
    if not schedules:
        print("Nothing is scheduled.")
