"""Recurring runs on Kubeflow Pipelines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantgate.components.errors import PrerequisiteError
from quantgate.pipelines.kubeflow.run_parameters import checked
from quantgate.pipelines.terminal_output import print_text

if TYPE_CHECKING:
    from kfp_server_api import models as api

    from quantgate.pipelines.kubeflow.connection import Kubeflow, Place

FIELDS = 5
DISABLED = "DISABLED"


def list_schedules(place: "Place") -> None:
    """Print one line per schedule."""
    from quantgate.pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        show(recurring(kubeflow))


def remove_schedule(place: "Place", name: str, *, now: bool) -> None:
    """Remove the schedule of that name; `now`: even if that ends a run that it has started."""
    from quantgate.pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        remove(kubeflow, name, now=now)


def schedule_runs(
    place: "Place",
    parameters: dict[str, Any],
    name: str,
    cron: str,
    pipeline: Path,
    service_account: str,
) -> None:
    """Create the schedule of that name; an equal one stays, another one is replaced."""
    from quantgate.pipelines.kubeflow.connection import connected
    from quantgate.pipelines.kubeflow.runs import experiment_id, read_pipeline, upload

    when = six_fields(cron)
    file = checked(read_pipeline(pipeline), parameters)
    with connected(place) as kubeflow:
        version = upload(kubeflow, file)
        schedule = recurring_run(name, when, parameters)
        schedule.experiment_id = experiment_id(kubeflow)
        schedule.pipeline_version_reference = version.reference
        schedule.service_account = service_account or None
        print_text(f"{name}: {cron} UTC, {version.name}: {create_or_replace(kubeflow, schedule)}")


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
        raise PrerequisiteError(
            'Give the start times: --cron "0 3 * * 1" is Mondays at three. For a run on each new model: quantgate look.'
        )
    if len(cron.split()) != FIELDS:
        raise PrerequisiteError(
            f'--cron "{cron}" has {len(cron.split())} fields. Give five: minute, hour, day, month, weekday.'
        )
    return f"0 {' '.join(cron.split())}"


def create_or_replace(kubeflow: "Kubeflow", schedule: "api.V2beta1RecurringRun") -> str:
    """Create the schedule, then retire the others of its name; returns what happened.

    An equal schedule stays: replacing it would end a run that it has started. The new one is created first: if a call
    fails in between, there is still one.
    """
    from quantgate.pipelines.kubeflow.connection import ANSWER_S

    others = [other for other in recurring(kubeflow) if other.display_name == schedule.display_name]
    equal = next((other for other in others if is_equal(other, schedule)), None)
    if equal is None:
        with kubeflow.request("create the schedule"):
            kubeflow.client.recurring_runs.recurring_run_service_create_recurring_run(
                schedule, _request_timeout=ANSWER_S
            )
        outcome = "replaces the older one" if others else "scheduled"
    elif equal.status == DISABLED:
        set_enabled(kubeflow, equal, enabled=True)
        outcome = "enabled again"
    else:
        outcome = "unchanged"
    for other in others:
        if other is not equal:
            retire(kubeflow, other)
    return outcome


def is_equal(existing: Any, schedule: Any) -> bool:
    """Whether the existing schedule starts the same runs at the same times."""
    return facts_of(existing) == facts_of(schedule)


def facts_of(schedule: Any) -> tuple[object, ...]:
    """What a schedule starts, and when."""
    cron = schedule.trigger.cron_schedule if schedule.trigger else None
    reference = schedule.pipeline_version_reference
    return (
        cron.cron if cron else "",
        schedule.runtime_config.parameters if schedule.runtime_config else {},
        (reference.pipeline_id, reference.pipeline_version_id) if reference else (),
        schedule.service_account or "",
        bool(schedule.no_catchup),
        str(schedule.max_concurrency),
    )


def retire(kubeflow: "Kubeflow", schedule: Any) -> None:
    """Disable a replaced schedule, and remove it if nothing of it runs: removing it would end its run.

    One that stays is removed by a later `schedule` of its name.
    """
    if schedule.status != DISABLED:
        set_enabled(kubeflow, schedule, enabled=False)
    if running := running_of(kubeflow, schedule):
        print_text(
            f"{schedule.display_name}: the older schedule {schedule.recurring_run_id} is disabled. It stays until its "
            f"run ends ({', '.join(running)}), and the next `quantgate schedule` of this name removes it."
        )
        return
    # A run that Kubeflow does not list yet, because it has just begun, stays without its schedule.
    discard(kubeflow, schedule, "ORPHAN")


def remove(kubeflow: "Kubeflow", name: str, *, now: bool) -> None:
    """Remove the schedule of that name, which ends its run.

    Raises PrerequisiteError when there is no such schedule, and without `now` when a run of it is under way.
    """
    schedules = recurring(kubeflow)
    matches = [schedule for schedule in schedules if schedule.display_name == name]
    if not matches:
        names = ", ".join(sorted({schedule.display_name for schedule in schedules})) or "none"
        raise PrerequisiteError(f"There is no schedule {name}. Existing schedules: {names}.")
    running = [run for schedule in matches for run in running_of(kubeflow, schedule)]
    if running and not now:
        raise PrerequisiteError(
            f"Deleting the schedule {name} ends what it has started: the run {', '.join(running)} with its servers. "
            "Nothing is deleted. Wait until it has ended, or end it with --now."
        )
    for schedule in matches:
        discard(kubeflow, schedule, "BACKGROUND" if now else "ORPHAN")
    print_text(f"{name}: removed" + (f"; this ends the run {', '.join(running)}" if running else ""))


def running_of(kubeflow: "Kubeflow", schedule: Any) -> list[str]:
    """The ids of the runs that the schedule has started and that are under way."""
    from quantgate.pipelines.kubeflow.runs import runs_under_way

    started = runs_under_way(kubeflow, schedule.experiment_id)
    return [str(run.run_id) for run in started if run.recurring_run_id == schedule.recurring_run_id]


def set_enabled(kubeflow: "Kubeflow", schedule: Any, *, enabled: bool) -> None:
    """Enable or disable one schedule."""
    from quantgate.pipelines.kubeflow.connection import ANSWER_S

    service = kubeflow.client.recurring_runs
    change = (
        service.recurring_run_service_enable_recurring_run
        if enabled
        else service.recurring_run_service_disable_recurring_run
    )
    with kubeflow.request(f"{'enable' if enabled else 'disable'} the schedule {schedule.display_name}"):
        change(schedule.recurring_run_id, _request_timeout=ANSWER_S)


def discard(kubeflow: "Kubeflow", schedule: Any, propagation_policy: str) -> None:
    """Remove one schedule; BACKGROUND ends its runs too, ORPHAN (since Kubeflow Pipelines 2.17) leaves them."""
    from quantgate.pipelines.kubeflow.connection import ANSWER_S

    with kubeflow.request(f"remove the schedule {schedule.display_name} ({schedule.recurring_run_id})"):
        kubeflow.client.recurring_runs.recurring_run_service_delete_recurring_run(
            schedule.recurring_run_id, propagation_policy=propagation_policy, _request_timeout=ANSWER_S
        )


def recurring(kubeflow: "Kubeflow") -> list[Any]:
    """All schedules of the experiment EXPERIMENT."""
    from quantgate.pipelines.kubeflow.connection import ANSWER_S
    from quantgate.pipelines.kubeflow.runs import experiment_id

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
        print_text(f"{schedule.display_name}: {times}, {parameters.get('model', '')}, {schedule.status or ''}")
    if not schedules:
        print_text("Nothing is scheduled.")
