"""Recurring runs on Kubeflow Pipelines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import PrerequisiteError
from pipelines.kubeflow.run_parameters import checked, with_setting

if TYPE_CHECKING:
    from kfp_server_api import models as api

    from pipelines.kubeflow.connection import Kubeflow, Place

HOURLY = "0 * * * *"
FIELDS = 5


def list_schedules(place: "Place") -> None:
    """Print one line per schedule."""
    from pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        show(recurring(kubeflow))


def remove_schedule(place: "Place", name: str) -> None:
    """Remove the schedule of that name; a run that it has started continues."""
    from pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        remove(kubeflow, name)


def schedule_runs(
    place: "Place",
    parameters: dict[str, Any],
    name: str,
    cron: str,
    pipeline: Path,
    service_account: str,
    *,
    on_new_model: bool,
) -> None:
    """Create the schedule of that name; it replaces an existing one."""
    from pipelines.kubeflow.connection import connected
    from pipelines.kubeflow.runs import experiment_id, read_pipeline, upload

    when = six_fields(cron or (HOURLY if on_new_model else ""))
    if on_new_model:
        parameters = with_setting(parameters, "skip_judged", True)
    file = checked(read_pipeline(pipeline), parameters)
    with connected(place) as kubeflow:
        version = upload(kubeflow, file)
        schedule = recurring_run(name, when, parameters)
        schedule.experiment_id = experiment_id(kubeflow)
        schedule.pipeline_version_reference = version.reference
        schedule.service_account = service_account or None
        replace(kubeflow, schedule)
    print(f"{name}: {cron or HOURLY} UTC, {version.name}")


def recurring_run(name: str, when: str, parameters: dict[str, object]) -> "api.V2beta1RecurringRun":
    """A schedule that starts one run at a time and does not make up for missed starts."""
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
    """The cron expression for Kubeflow, with a field for seconds in front.

    Kubeflow would read five fields as second to month.
    """
    if not cron:
        raise PrerequisiteError('Give the start times: --cron "0 3 * * 1" is Mondays at three, or --on-new-model.')
    if len(cron.split()) != FIELDS:
        raise PrerequisiteError(
            f'--cron "{cron}" has {len(cron.split())} fields. Give five: minute, hour, day, month, weekday.'
        )
    return f"0 {' '.join(cron.split())}"


def replace(kubeflow: "Kubeflow", schedule: "api.V2beta1RecurringRun") -> None:
    """Create the schedule, then remove older ones of its name: if a call fails in between, there is still one."""
    from pipelines.kubeflow.connection import ANSWER_S

    replaced = [older for older in recurring(kubeflow) if older.display_name == schedule.display_name]
    with kubeflow.request("create the schedule"):
        kubeflow.client.recurring_runs.recurring_run_service_create_recurring_run(schedule, _request_timeout=ANSWER_S)
    for older in replaced:
        discard(kubeflow, older)


def remove(kubeflow: "Kubeflow", name: str) -> None:
    """Remove the schedule of that name; raises PrerequisiteError when there is none."""
    schedules = recurring(kubeflow)
    matches = [schedule for schedule in schedules if schedule.display_name == name]
    if not matches:
        names = ", ".join(sorted({schedule.display_name for schedule in schedules})) or "none"
        raise PrerequisiteError(f"There is no schedule {name}. Existing schedules: {names}.")
    for schedule in matches:
        discard(kubeflow, schedule)
    print(f"{name}: removed")


def discard(kubeflow: "Kubeflow", schedule: Any) -> None:
    """Remove one schedule."""
    from pipelines.kubeflow.connection import ANSWER_S

    with kubeflow.request(f"remove the schedule {schedule.display_name} ({schedule.recurring_run_id})"):
        kubeflow.client.recurring_runs.recurring_run_service_delete_recurring_run(
            schedule.recurring_run_id, _request_timeout=ANSWER_S
        )


def recurring(kubeflow: "Kubeflow") -> list[Any]:
    """All schedules of the experiment EXPERIMENT."""
    from pipelines.kubeflow.connection import ANSWER_S
    from pipelines.kubeflow.runs import experiment_id

    schedules: list[Any] = []
    experiment, page = experiment_id(kubeflow), ""
    with kubeflow.request("list the schedules"):
        while True:
            answer = kubeflow.client.recurring_runs.recurring_run_service_list_recurring_runs(
                experiment_id=experiment, page_token=page, page_size=100, _request_timeout=ANSWER_S
            )
            schedules += answer.recurring_runs or []
            page = answer.next_page_token or ""
            if not page:
                return schedules


def show(schedules: list[Any]) -> None:
    """Print one line per schedule."""
    for schedule in schedules:
        trigger = schedule.trigger
        when = trigger.cron_schedule.cron if trigger and trigger.cron_schedule else "by an interval"
        parameters = schedule.runtime_config.parameters if schedule.runtime_config else {}
        new = ", new models only" if parameters.get("settings", {}).get("skip_judged") else ""
        times = f"{when.removeprefix('0 ')} UTC{new}"
        print(f"{schedule.display_name}: {times}, {parameters.get('model', '')}, {schedule.status or ''}")
    if not schedules:
        print("Nothing is scheduled.")
