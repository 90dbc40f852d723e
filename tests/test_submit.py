"""Runs on Kubeflow Pipelines, with kfp's own client and a stand-in for its REST API."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from quantgate.components.run.progress import DONE, FAILED, RUNNING, Event
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.facts import RunFacts, RunFiles
from quantgate.pipelines.cluster import Cluster
from quantgate.pipelines.exits import USER_ERROR, exit_of
from quantgate.pipelines.kubeflow import runs
from quantgate.pipelines.kubeflow.connection import Place, connected
from tests.support.decided import digested, make_decision
from tests.support.kfp_server import RefusedError, State, check_parameters
from tests.support.kfp_workflow import pod_of
from tests.support.mlflow_store import empty_store, local
from tests.support.on_kubeflow import (
    QUICK,
    RESULTS,
    Answer,
    compiled,
    decides,
    kubeflow,
    logged,
    pipeline,
    submitted,
    uploads,
)

pytestmark = pytest.mark.slow  # each test asks servers that stand in for a cluster

__all__ = ["empty_store", "kubeflow", "local", "pipeline"]


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (("ship",), 0),
        (("monitor", "ship"), 0),
        (("ship", "inconclusive"), 3),
        (("inconclusive", "reject"), 1),
        (("ab_test",), 1),
        (("reject", "not_comparable"), 4),
        (("failed", "ship"), 4),
        ((), 4),
    ],
)
def test_the_exit_status_is_that_of_the_worst_verdict(verdicts: tuple[str, ...], status: int) -> None:
    assert exit_of(verdicts) == status


@pytest.mark.parametrize(("verdict", "status"), [("ship", 0), ("inconclusive", 3), ("reject", 1), ("failed", 4)])
def test_a_run_is_uploaded_started_followed_and_ends_with_its_verdict(
    kubeflow: State, pipeline: Path, verdict: str, status: int
) -> None:
    decides(kubeflow, verdict)
    done = submitted(kubeflow, pipeline, "--variants", "int8", "--suite", "quick", "--limit", "3", "--no-check-power")
    assert done.status == status
    for line in ("run: pending", "run: running", "run: succeeded", f"v0: {verdict}. So it is."):
        assert line in done.out
    run = kubeflow.only("runs")
    assert run["service_account"] == "quantgate-pipeline"
    parameters = run["runtime_config"]["parameters"]
    assert (parameters["variants"], parameters["suite"], parameters["limit"]) == (["bf16", "int8"], "quick", 3)
    assert f"report s3://bucket/results/{run['run_id']}/report.html" in done.out
    assert f"{kubeflow.host}/#/runs/details/{run['run_id']}" in done.out
    assert kubeflow.only("versions")["content"].count("# PIPELINE DEFINITION") == 1
    assert kubeflow.only("versions")["tags"] == {"quantgate-image": Cluster().image}


def test_a_long_image_is_cut_to_the_length_of_a_versions_tag(kubeflow: State, tmp_path: Path) -> None:
    image = f"registry.example.com/quantgate@sha256:{'0' * 64}"
    assert submitted(kubeflow, compiled(tmp_path / "pipeline.yaml", Cluster(image=image)), "--detach").status == 0
    assert kubeflow.only("versions")["tags"] == {"quantgate-image": f"quantgate@sha256:{'0' * 46}"}


def test_every_parameter_of_the_pipeline_is_sent(kubeflow: State, pipeline: Path) -> None:
    assert submitted(kubeflow, pipeline, "--detach").status == 0
    spec = next(iter(yaml.safe_load_all(pipeline.read_text())))
    declared = set(spec["root"]["inputDefinitions"]["parameters"])
    assert set(kubeflow.only("runs")["runtime_config"]["parameters"]) == declared


@pytest.mark.slow
def test_a_pipeline_that_kubeflow_has_is_not_uploaded_again(kubeflow: State, pipeline: Path, tmp_path: Path) -> None:
    assert "uploaded" in submitted(kubeflow, pipeline, "--detach").out
    assert "Kubeflow already has it" in submitted(kubeflow, pipeline, "--detach").out
    assert uploads(kubeflow) == 1
    other = compiled(tmp_path / "pipeline.yaml", Cluster(parallelism=2))
    assert "uploaded" in submitted(kubeflow, other, "--detach").out
    assert uploads(kubeflow) == 2
    assert len(kubeflow.objects["pipelines"]) == 1
    used = [run["pipeline_version_reference"]["pipeline_version_id"] for run in kubeflow.objects["runs"].values()]
    assert used[0] == used[1] != used[2]


def test_two_runs_have_different_names_and_results(kubeflow: State, pipeline: Path) -> None:
    assert submitted(kubeflow, pipeline).status == 0
    assert submitted(kubeflow, pipeline).status == 0
    assert len({run["display_name"] for run in kubeflow.objects["runs"].values()}) == 2
    assert len(kubeflow.s3) == 2


def steps_shown(out: str) -> list[str]:
    """The lines about the run's state and its steps, without their times."""
    lines = [line.partition(" ")[2] for line in out.splitlines()]
    names = ("run: ", "resolve ", "bf16 ", "int8 ", "gate ", "report ")
    return [line for line in lines if line.startswith(names) and "s3://" not in line]


def test_each_variant_and_step_is_shown_as_a_local_run_shows_it(kubeflow: State, pipeline: Path) -> None:
    kubeflow.logs["quantize 2"] = logged(
        Event(1, "quantize", "int8", RUNNING),
        Event(2, "quantize", "int8", RUNNING, 3, 10),
        Event(3, "quantize", "int8", DONE, note="163 MB"),
    )
    kubeflow.script = [
        ("RUNNING", {"resolve": "RUNNING"}),
        ("RUNNING", {"resolve": "RUNNING"}),
        ("RUNNING", {"resolve": "SUCCEEDED", "quantize 1": "RUNNING", "quantize 2": "PENDING"}),
        ("RUNNING", {"resolve": "SUCCEEDED", "quantize 1": "SUCCEEDED", "quantize 2": "RUNNING"}),
        (
            "SUCCEEDED",
            {"resolve": "SUCCEEDED", "quantize 1": "SUCCEEDED", "quantize 2": "SUCCEEDED", "report": "SUCCEEDED"},
        ),
    ]
    done = submitted(kubeflow, pipeline, "--variants", "int8")
    assert done.status == 0
    assert steps_shown(done.out) == [
        "resolve running",
        "run: running",
        "resolve done",
        "bf16 quantize running",
        "int8 quantize running",
        "bf16 quantize done",
        "int8 quantize running 3/10",
        "int8 quantize done: 163 MB",
        "report running",
        "report done",
        "run: succeeded",
    ]


def test_through_kubeflows_page_a_steps_progress_is_read_while_it_runs(kubeflow: State, pipeline: Path) -> None:
    """The page, to which --port-forward leads, does not pass on the server's own API for logs."""
    kubeflow.is_page = True
    kubeflow.logs["quantize 2"] = logged(
        Event(1, "quantize", "int8", RUNNING), Event(2, "quantize", "int8", RUNNING, 3, 10)
    )
    kubeflow.script = [("RUNNING", {"quantize 2": "RUNNING"})] * 2 + [("SUCCEEDED", {"report": "SUCCEEDED"})]
    done = submitted(kubeflow, pipeline, "--variants", "int8")
    assert (done.status, "int8 quantize running 3/10" in steps_shown(done.out)) == (0, True)


def test_the_events_name_the_variants_of_a_run_that_was_started_elsewhere(kubeflow: State, pipeline: Path) -> None:
    kubeflow.logs["quantize 2"] = logged(Event(2, "quantize", "int4-g64", DONE))
    kubeflow.script = [("RUNNING", {}), ("RUNNING", {"quantize 2": "SUCCEEDED"}), ("SUCCEEDED", {})]
    submitted(kubeflow, pipeline, "--detach")
    run = kubeflow.only("runs")
    del run["runtime_config"]["parameters"]["variants"]
    shown = Answer("follow", run["run_id"], "--host", kubeflow.host, *QUICK).out
    assert "int4-g64 quantize done" in shown


def test_a_variants_failure_is_shown_when_it_happens_and_does_not_fail_the_run(kubeflow: State, pipeline: Path) -> None:
    reason = "vLLM did not start: out of memory.\nIts command: python -m vllm"
    kubeflow.logs["deploy 2"] = logged(
        Event(1, "deploy", "int8", RUNNING), Event(2, "deploy", "int8", FAILED, note=reason)
    )
    deployed = {"deploy 1": "SUCCEEDED", "deploy 2": "SUCCEEDED"}
    kubeflow.script = [("RUNNING", deployed), ("SUCCEEDED", {**deployed, "report": "SUCCEEDED"})]
    done = submitted(kubeflow, pipeline, "--variants", "int8")
    assert done.status == 0
    lines = steps_shown(done.out)
    log = f"kubectl --namespace team logs {pod_of('deploy 2')} --container main"
    failed = f"int8 deploy failed: vLLM did not start: out of memory. Its log: {log}"
    assert lines.index(failed) < lines.index("run: running")
    assert "no verdict" not in done.err


@pytest.mark.parametrize("log", [True, False])
def test_a_failed_run_is_reported_with_the_step_its_reason_and_its_log(
    kubeflow: State, pipeline: Path, *, log: bool
) -> None:
    kubeflow.script = [("FAILED", {"resolve": "FAILED: main: Error (exit code 1): The model is not there."})]
    if log:
        failed = Event(2, "resolve", "", FAILED, note="The model is not there.\nGive another.")
        kubeflow.logs["resolve"] = logged(Event(1, "resolve", "", RUNNING), failed)
    done = submitted(kubeflow, pipeline)
    assert done.status == 4
    reason = "The model is not there." if log else "main: Error (exit code 1): The model is not there."
    forecast, _, message = done.err.partition("quantgate: ")
    assert forecast.startswith("What 600 questions can show for general-chat and 3 variants, by simulation:\n")
    assert f"quantgate: {message}" == (
        f"quantgate: The run has no verdict: resolve: {reason}\n"
        f"Its log: kubectl --namespace team logs {pod_of('resolve')} --container main\n"
        f"Its page: {kubeflow.host}/#/runs/details/{kubeflow.only('runs')['run_id']}\n"
    )
    assert f"resolve failed: {reason} Its log: kubectl" in done.out


def test_a_step_that_was_killed_after_its_work_has_failed(kubeflow: State, pipeline: Path) -> None:
    kubeflow.logs["gate"] = logged(Event(1, "gate", "", RUNNING), Event(2, "gate", "", DONE))
    kubeflow.script = [("FAILED", {"gate": "FAILED: OOMKilled (exit code 137)"})]
    assert "no verdict: gate: OOMKilled (exit code 137)\n" in submitted(kubeflow, pipeline).err


def test_without_kubeflows_older_apis_the_failed_steps_are_named(kubeflow: State, pipeline: Path) -> None:
    kubeflow.has_v1 = False
    kubeflow.script = [("RUNNING", {"gate": "RUNNING"}), ("FAILED", {"resolve": "SUCCEEDED", "gate": "FAILED: gone"})]
    done = submitted(kubeflow, pipeline)
    assert done.status == 4
    assert "no verdict: these steps failed: gate. Kubeflow gives no reason.\n" in done.err


def test_a_terminated_run_is_said_to_be_terminated_with_what_it_leaves(kubeflow: State, pipeline: Path) -> None:
    kubeflow.logs["quantize 1"] = logged(Event(3, "quantize", "bf16", DONE))
    kubeflow.script = [
        ("RUNNING", {"resolve": "SUCCEEDED", "quantize 1": "SUCCEEDED", "deploy 1": "RUNNING"}),
    ]
    submitted(kubeflow, pipeline, "--detach")
    run_id = kubeflow.only("runs")["run_id"]
    place = ("--host", kubeflow.host)
    assert Answer("follow", run_id, *place, "--stop").status == 0
    after = Answer("follow", run_id, *place, *QUICK)
    assert after.status == 4
    assert "run: failed" in after.out  # Kubeflow's own last state
    left = f"Left in s3://bucket/results/{run_id} is what these steps wrote: resolve; bf16 quantize."
    assert f"quantgate: The run was terminated, so it has no verdict. {left}" in after.err


def test_what_mlflow_did_not_take_is_said_last_with_the_command_that_repeats_it(
    kubeflow: State, pipeline: Path
) -> None:
    to_do = "Not in MLflow: it answered 500.\nTo send it later: quantgate track s3://bucket/results/run-4"
    kubeflow.logs["track"] = logged(Event(1, "track", "", DONE, note="Not in MLflow", to_do=to_do))
    kubeflow.script = [("SUCCEEDED", {"report": "SUCCEEDED", "track": "SUCCEEDED"})]
    done = submitted(kubeflow, pipeline)
    assert done.status == 0
    assert done.out.endswith(f"/report.html\n{to_do}\n")


def test_a_run_can_be_detached_followed_later_and_stopped(kubeflow: State, pipeline: Path) -> None:
    left = submitted(kubeflow, pipeline, "--detach")
    run_id = kubeflow.only("runs")["run_id"]
    assert left.status == 0
    *_, command = left.out.partition("To follow it: quantgate ")
    assert command == f"follow {run_id} --host {kubeflow.host}\n"
    assert "GET runs/" + run_id not in kubeflow.requests
    assert Answer(*command.split(), *QUICK).status == 0
    assert Answer("follow", run_id, "--host", kubeflow.host, "--stop").status == 0
    after = Answer("follow", run_id, "--host", kubeflow.host, *QUICK)
    assert (after.status, "run: failed" in after.out) == (4, True)


@pytest.mark.parametrize("more", [(), ("--stop",)])
def test_a_missing_run_is_not_reported_as_still_running(kubeflow: State, more: tuple[str, ...]) -> None:
    done = Answer("follow", "nowhere", "--host", kubeflow.host, *more)
    assert (done.status, "continues" in done.err) == (USER_ERROR, False)
    assert "did not find the run nowhere" in done.err


@pytest.mark.slow
def test_an_interrupted_command_leaves_the_run_running_and_says_what_to_do(kubeflow: State, pipeline: Path) -> None:
    kubeflow.script = [("RUNNING", {})]
    code = "import signal, typer; from quantgate.pipelines.cli.cluster_commands import submit"
    code += "; signal.signal(2, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{code}; typer.run(submit)", "--host", kubeflow.host, *RESULTS]
    with subprocess.Popen(
        [*command, "--pipeline", str(pipeline)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any("run: running" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    run = kubeflow.only("runs")
    assert process.returncode == 130
    assert f"The run continues.\nTo follow it: quantgate follow {run['run_id']} --host {kubeflow.host}\n" in err
    assert f"quantgate follow {run['run_id']} --host {kubeflow.host} --stop" in err
    assert "Traceback" not in err
    assert run["state"] == "RUNNING"


@pytest.mark.parametrize("fault", ["drop", 503, 429, 500])
def test_a_lost_connection_while_following_is_retried(kubeflow: State, pipeline: Path, fault: int) -> None:
    kubeflow.faults = [("GET", "runs/", fault)] * 6
    done = submitted(kubeflow, pipeline)
    assert done.status == 0
    assert "The run continues; waiting for an answer." in done.out
    assert kubeflow.faults == []


def test_a_permanently_lost_connection_is_reported_with_what_to_do(
    kubeflow: State, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PATIENCE_S", 0.0)
    kubeflow.faults = [("GET", "runs/", 503)] * 2
    done = submitted(kubeflow, pipeline)
    assert done.status == USER_ERROR
    assert f"To follow it: quantgate follow {kubeflow.only('runs')['run_id']}" in done.err


def test_a_run_whose_response_was_lost_is_found_and_not_started_twice(kubeflow: State, pipeline: Path) -> None:
    kubeflow.faults = [("POST", "runs", "late")]
    assert submitted(kubeflow, pipeline).status == 0
    assert len(kubeflow.objects["runs"]) == 1


def test_a_run_that_was_not_started_is_an_error(kubeflow: State, pipeline: Path) -> None:
    kubeflow.faults = [("POST", "runs", "drop")]
    done = submitted(kubeflow, pipeline)
    assert done.status == USER_ERROR
    assert "does not answer" in done.err
    assert kubeflow.objects["runs"] == {}


@pytest.mark.parametrize("blind", ["pipelines", "pipelines/pipeline-1/versions"])
def test_a_simultaneous_upload_of_the_same_pipeline_is_not_an_error(
    kubeflow: State, pipeline: Path, blind: str
) -> None:
    file = runs.read_pipeline(pipeline)
    with connected(Place(host=kubeflow.host)) as here:
        first = runs.upload(here, file)
        kubeflow.faults = [("GET", blind, "blind")]
        again = runs.upload(here, file)
    assert kubeflow.faults == []
    assert (again.pipeline_id, again.version_id, again.uploaded) == (first.pipeline_id, first.version_id, False)
    assert len(kubeflow.objects["versions"]) == 1


def test_a_simultaneous_creation_of_the_experiment_is_not_an_error(kubeflow: State) -> None:
    with connected(Place(host=kubeflow.host)) as here:
        first = runs.experiment_id(here)
        kubeflow.faults = [("GET", "experiments", "blind")]
        assert runs.experiment_id(here) == first
    assert kubeflow.faults == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--variants", "int3"), "Unknown variant 'int3'"),
        (("--suite", "mmlu"), "Unknown suite 'mmlu'"),
        (("--use-case", "math-tutoring"), "Choose a suite with gsm8k"),
        (("--model", "file:/models/x"), "The cluster cannot read file:/models/x"),
        (("--results", "runs/here"), "--results is runs/here, and the cluster cannot read a machine's disk"),
        (("--custom", "./ours"), "--custom is ./ours"),
        (("--data", "/rows"), "--data is /rows"),
        (("--tracking-uri", "http://me:secret@mlflow"), "contains a user name or a password"),
        (("--pipeline", "/nowhere/pipeline.yaml"), "quantgate compile --out /nowhere/pipeline.yaml"),
        (("--pipeline", __file__), "is not a pipeline"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_sent(
    kubeflow: State, pipeline: Path, options: tuple[str, ...], what: str
) -> None:
    done = submitted(kubeflow, pipeline, *options)
    assert done.status == USER_ERROR
    assert what in done.err
    assert kubeflow.requests == []


def test_a_pipeline_of_another_version_is_refused(kubeflow: State, pipeline: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    spec = next(iter(yaml.safe_load_all(pipeline.read_text())))
    del spec["root"]["inputDefinitions"]["parameters"]["promote"]
    old.write_text(yaml.safe_dump(spec))
    assert "has no parameter promote" in submitted(kubeflow, old).err


@pytest.fixture
def s3_keys(kubeflow: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine can read the S3 with the results."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", kubeflow.host)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_the_verdict_comes_through_kubeflow_and_needs_no_keys_of_s3(kubeflow: State, pipeline: Path) -> None:
    decides(kubeflow, "reject")
    kubeflow.s3.clear()
    done = submitted(kubeflow, pipeline)
    assert (done.status, "v0: reject. So it is." in done.out) == (1, True)


def test_the_report_is_where_the_steps_say_when_the_cluster_sets_the_place(kubeflow: State, pipeline: Path) -> None:
    results = "s3://mlpipeline/private/team/results/run-1"
    judged = (("int8", "ship", "So it is."),)
    kubeflow.logs["report"] = logged(Event(1, "report", "", DONE, verdicts=judged, results=results))
    kubeflow.on_run = lambda _run: None
    done = submitted(kubeflow, pipeline, "--results", "")
    assert (done.status, done.out.endswith(f"report {results}/report.html\n")) == (0, True)


def test_when_its_pod_is_gone_the_verdict_comes_from_the_log_that_kubeflow_keeps_as_an_artifact(
    kubeflow: State, pipeline: Path
) -> None:
    decides(kubeflow, "inconclusive")
    kubeflow.s3.clear()
    kubeflow.kept_logs["report"] = kubeflow.logs.pop("report")
    done = submitted(kubeflow, pipeline)
    assert (done.status, "v0: inconclusive. So it is." in done.out) == (3, True)


def test_a_log_that_argo_keeps_only_after_its_step_has_ended_is_read_then(kubeflow: State, pipeline: Path) -> None:
    decides(kubeflow, "reject")
    kubeflow.s3.clear()
    kubeflow.kept_logs_after = {"report": (2, kubeflow.logs.pop("report"))}
    kubeflow.script = [("RUNNING", {"report": "SUCCEEDED"})] * 3 + [("SUCCEEDED", {"report": "SUCCEEDED"})]
    done = submitted(kubeflow, pipeline)
    assert (done.status, "v0: reject. So it is." in done.out) == (1, True)


def test_without_kubeflows_log_the_verdict_comes_from_mlflow(
    kubeflow: State, pipeline: Path, local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)
    decided = digested(make_decision(tmp_path))
    kubeflow.logs.clear()
    submitted(kubeflow, pipeline, "--detach")
    run_id = kubeflow.only("runs")["run_id"]
    track(decided, RunFacts(run_id=run_id, name="run"), RunFiles(), local)
    done = Answer("follow", run_id, "--host", kubeflow.host, *QUICK)
    assert done.status == exit_of(row.verdict for row in decided.verdicts[1:])
    shown = [line.partition(" ")[2] for line in done.out.splitlines()]
    rows = [f"{row.variant}: {row.verdict}. {row.sentence}" for row in decided.verdicts[1:]]
    assert [line for line in shown if line in rows] == rows


@pytest.mark.usefixtures("s3_keys")
def test_without_kubeflows_log_and_mlflow_the_verdict_comes_from_s3(kubeflow: State, pipeline: Path) -> None:
    kubeflow.logs.clear()
    done = submitted(kubeflow, pipeline)
    assert (done.status, "v0: ship. So it is." in done.out) == (0, True)


def test_a_run_whose_verdict_is_out_of_reach_is_followed_and_its_place_is_named(
    kubeflow: State, pipeline: Path
) -> None:
    kubeflow.logs.clear()
    done = submitted(kubeflow, pipeline)
    assert (done.status, "run: succeeded" in done.out) == (USER_ERROR, True)
    assert "- Kubeflow: the log of the step `report` is not available" in done.err
    assert "- MLflow: the run has no tracking URI" in done.err
    assert "- S3: " in done.err
    assert (
        f"It is in s3://bucket/results/{kubeflow.only('runs')['run_id']}/verdicts.json, and in the report" in done.err
    )


@pytest.mark.usefixtures("s3_keys")
def test_a_missing_verdict_is_reported_with_its_location(kubeflow: State, pipeline: Path) -> None:
    kubeflow.on_run = lambda _run: None
    kubeflow.logs.clear()
    done = submitted(kubeflow, pipeline)
    place = f"s3://bucket/results/{kubeflow.only('runs')['run_id']}"
    assert f"{place} has no verdicts.json" in done.err


def test_kubeflow_refuses_a_use_case_that_is_not_among_the_literals(kubeflow: State, pipeline: Path) -> None:
    assert submitted(kubeflow, pipeline, "--detach", "--suite", "code", "--use-case", "code").status == 0
    spec = next(iter(yaml.safe_load_all(pipeline.read_text())))
    spec["root"]["inputDefinitions"]["parameters"]["use_case"]["literals"] = ["demo"]
    content = f"# PIPELINE DEFINITION\n{yaml.safe_dump(spec)}"
    with pytest.raises(RefusedError, match="does not match any of the allowed literal values"):
        check_parameters(content, {"use_case": "code"})
    with pytest.raises(RefusedError, match="not required by pipeline: store"):
        check_parameters(content, {"store": "s3://bucket/store"})
    with pytest.raises(RefusedError, match="settings requires type struct"):
        check_parameters(content, {"settings": "{}"})


def test_options_without_a_parameter_of_their_own_are_sent_as_settings(kubeflow: State, pipeline: Path) -> None:
    given = ("--max-model-len", "512", "--no-stop-early", "--limit", "99")
    assert submitted(kubeflow, pipeline, "--detach", *given).status == 0
    parameters = kubeflow.only("runs")["runtime_config"]["parameters"]
    assert len(parameters) == 8
    places = {"store": "s3://bucket/store", "results": "s3://bucket/results"}
    assert parameters["settings"] == {"max_model_len": 512, "stop_early": False, **places}
    assert parameters["limit"] == 99
