"""A run that MLflow did not record: it stays in its folder, reports this, and is sent later."""

import io
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote import step as promote_step
from quantgate.components.promote.registry import Registered
from quantgate.components.run import progress
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.location import open_store
from quantgate.components.track import step as track_step
from quantgate.components.track.mlflow_writer import track
from quantgate.components.track.spool import send, spooled_run
from quantgate.components.tracking.connect import HOSTS
from quantgate.components.tracking.facts import RunFacts
from quantgate.components.tracking.tracked_run import TrackedRun
from quantgate.components.tracking.uris import local_tracking_uri
from quantgate.pipelines.cli.app import answer
from quantgate.pipelines.cli.run_command import print_outcome
from tests.support.decided import FACTS, make_decision, report_files

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"


def recorded(folder: Path, tracking_uri: str) -> TrackedRun:
    """Write the run's folder as the step and its successor do."""
    decision = make_decision(folder)
    decision.write(folder / "decision.json")
    files = report_files(folder)
    for file in files.report:
        if file.parent != folder:
            shutil.copy(file, folder)
    page, text = str(folder / "report.html"), str(folder / "report.md")
    tracked = str(folder / "tracked-by-the-step.json")
    track_step.track(str(folder / "decision.json"), "run-1", str(folder), tracking_uri, page, text, tracked)
    promote_step.promote(
        str(folder / "decision.json"), tracked, str(folder), tracking_uri, str(folder / "r.json"), move=True
    )
    return TrackedRun.read(tracked)


def test_what_mlflow_did_not_take_is_the_last_thing_that_run_prints(tmp_path: Path) -> None:
    recorded(tmp_path, NOBODY)
    events, _ = progress.read(tmp_path / "progress.jsonl")
    to_do = [event.to_do for event in events if event.to_do]
    console = Console(file=io.StringIO(), width=200)
    print_outcome(tmp_path, NOBODY, to_do, console)
    assert isinstance(console.file, io.StringIO)
    out = console.file.getvalue()
    assert out.endswith(f"To send it later: quantgate track {tmp_path}\n")
    assert out.index("Report ") < out.index("Not in MLflow: MLflow cannot be reached at http://127.0.0.1:9")


def test_a_run_that_mlflow_refuses_is_reported_and_can_be_sent_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked = recorded(tmp_path, NOBODY)
    assert "MLflow cannot be reached at http://127.0.0.1:9" in tracked.spooled
    assert f"To send it later: quantgate track {tmp_path}" in capsys.readouterr().out
    assert Registered.read(tmp_path / "r.json").versions == {}
    with pytest.raises(PrerequisiteError, match="cannot be reached"):
        send(RunResults(str(tmp_path)))
    assert TrackedRun.read(tmp_path / "tracked.json").spooled

    uri, results = local_tracking_uri(tmp_path / "mlflow"), RunResults(str(tmp_path))
    name = RunFacts.read(tmp_path / "facts.json").name
    sent, again = send(results, uri), send(results, uri)
    assert (MlflowClient(uri).get_run(sent.run_id).info.run_name, name.isascii()) == (name, True)
    assert (sent.run_id, sent.spooled) == (again.run_id, "")
    assert len(MlflowClient(uri).search_runs([sent.experiment_id])) == 1 + 4
    assert send(results).run_id == sent.run_id, "where it is now"


def test_a_folder_without_a_decision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="contains no run with a decision"):
        send(RunResults(str(tmp_path)))


@pytest.mark.parametrize(("allowed", "refused"), [("mlflow.example", True), ("a.b, 127.0.0.*", False), ("", False)])
def test_a_server_outside_the_allow_list_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, refused: bool
) -> None:
    monkeypatch.setenv(HOSTS, allowed)
    what = "is not among those" if refused else "cannot be reached"
    decision: Decision = make_decision(tmp_path)
    with pytest.raises(PrerequisiteError, match=what):
        track(decision, FACTS, report_files(tmp_path), NOBODY)


def test_a_password_is_stored_nowhere_and_needed_again_for_sending(tmp_path: Path) -> None:
    decision = make_decision(tmp_path)
    tracked = spooled_run(decision, "http://me:secret@127.0.0.1:9", "It is down.")
    assert "secret" not in tracked.model_dump_json()
    tracked.write(tmp_path / "tracked.json")
    decision.write(tmp_path / "decision.json")
    FACTS.write(tmp_path / "facts.json")
    with pytest.raises(PrerequisiteError, match="whose password is not stored. Give the address with --tracking-uri"):
        send(RunResults(str(tmp_path)))


def test_a_run_with_results_in_a_bucket_is_sent_later_and_registered(
    tmp_path: Path, s3_location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path / "run", NOBODY)
    store = open_store(s3_location)
    for name in ("decision.json", "facts.json", "tracked.json", "report.html", "report.md"):
        store.put_file(tmp_path / "run" / name, name)
    uri = local_tracking_uri(tmp_path / "mlflow")
    with pytest.raises(SystemExit) as left:
        answer(["track", s3_location, "--tracking-uri", uri])
    assert left.value.code == 0
    assert "candidate int8" in capsys.readouterr().out
    sent = TrackedRun.model_validate_json(store.get_text("tracked.json") or "")
    client = MlflowClient(uri)
    assert {artifact.path for artifact in client.list_artifacts(sent.run_id)} >= {"report.html", "decision.json"}
    registered = Registered.model_validate_json(store.get_text("registered.json") or "")
    candidate = client.get_registered_model(registered.model).aliases["candidate"]
    assert str(candidate) == registered.versions["int8"]


def test_a_notebook_shows_what_to_do_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    code = (
        "from quantgate.components.run.results import RunResults\nfrom quantgate.components.track.spool import send\n"
    )
    code += "send(RunResults('none'))"
    InteractiveShell().run_cell(code)  # type: ignore[no-untyped-call]
    shown = capsys.readouterr().out
    assert "quantgate: none contains no run with a decision" in shown
    assert "Traceback" not in shown
