"""Earlier results count only if this pipeline recorded them: its experiment, its evidence, its account."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Param
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.evidence_digests import digests_of
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking import earlier as earlier_runs
from quantgate.components.tracking.earlier import find_baseline_scores, find_decision, find_verdicts, verdict_key
from quantgate.components.tracking.experiments import check_experiment
from quantgate.components.tracking.facts import RunFacts, RunFiles
from quantgate.components.tracking.kubeflow_run import PARENT
from quantgate.components.tracking.signature import signature
from quantgate.components.tracking.tags import DECISION, EVIDENCE, SIGNATURE, experiment_name
from quantgate.components.tracking.tracked_run import TrackedRun
from tests.support.decided import digested
from tests.support.mlflow_server import Proxy
from tests.support.mlflow_store import empty_store, local
from tests.test_earlier import MODEL, SERVER, decided, plan_of, weights

__all__ = ["empty_store", "local"]

pytestmark = pytest.mark.slow

USERNAME, PASSWORD, TOKEN = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USERNAME, PASSWORD, TOKEN):
        monkeypatch.delenv(name, raising=False)


def of_model(source: str, folder: Path, plan: EvaluationPlan) -> Decision:
    """A decision on a base model with this source."""
    return digested(decided(folder, plan).model_copy(update={"model": MODEL.model_copy(update={"source": source})}))


def recorded(decision: Decision, uri: str, run_id: str) -> TrackedRun:
    assert decision.plan
    return track(decision, RunFacts(run_id=run_id, name=run_id, judged_by=verdict_key(decision.plan)), RunFiles(), uri)


def found_in(folder: Path, uri: str, plan: EvaluationPlan, source: str = MODEL.source) -> list[str]:
    """The runs that the scores and the verdict are taken from; empty for none."""
    scores = find_baseline_scores(weights(), plan, SERVER, uri, folder)
    verdict = find_decision(MODEL.model_copy(update={"source": source}), plan, uri)
    return [scores.scored_in if scores else "", verdict[0].judged_in if verdict else ""]


@pytest.mark.fault(
    "verdicts",
    "another experiment named quantgate/… holds a baseline's scores of the same model, for the same questions",
    "only the configured experiment is searched",
)
def test_another_experiment_gives_no_scores(tmp_path: Path, local: str) -> None:
    plan = plan_of(tmp_path)
    recorded(of_model("file:elsewhere", tmp_path / "theirs", plan), local, "theirs")
    assert found_in(tmp_path, local, plan) == ["", ""]
    good = recorded(decided(tmp_path / "ours", plan), local, "ours")
    assert all(good.run_id in used for used in found_in(tmp_path, local, plan))


def forge(client: MlflowClient, good: TrackedRun, edit: Any = None) -> str:
    """A newer run with the good one's variants, parameters, tags and signature; returns its id."""
    run = client.get_run(good.run_id)
    tags = {**run.data.tags, "mlflow.runName": "forged"}
    forged = str(client.create_run(run.info.experiment_id, tags=tags, run_name="forged").info.run_id)
    client.log_batch(forged, params=[Param(name, value) for name, value in run.data.params.items()])
    if edit:
        content = json.loads(Path(client.download_artifacts(good.run_id, DECISION)).read_text(encoding="utf-8"))
        edit(content)
        client.log_text(forged, json.dumps(content), DECISION)
    for child in good.children.values():
        tags = {**client.get_run(child).data.tags, PARENT: forged}
        client.set_terminated(client.create_run(run.info.experiment_id, tags=tags).info.run_id)
    client.set_terminated(forged)
    return forged


def lower(content: dict[str, Any]) -> None:
    content["scores"][0]["tasks"][0]["score"] = 0.1


def lower_with_digests(content: dict[str, Any]) -> None:
    lower(content)
    content["digests"] = digests_of(json.dumps(content), content["digests"]["records"]).model_dump()


def other_plan(content: dict[str, Any]) -> None:
    content["plan"]["variants"] = ["bf16", "int4-g64"]


@pytest.mark.fault(
    "verdicts",
    "newer runs in the pipeline's experiment with edited scores, plans or digests",
    "each is passed over; the newest run whose evidence holds is used, and named",
)
def test_runs_whose_evidence_does_not_hold_are_passed_over(tmp_path: Path, local: str) -> None:
    plan, client = plan_of(tmp_path), MlflowClient(local)
    good = recorded(decided(tmp_path / "ours", plan), local, "ours")
    for edit in (None, lower, lower_with_digests, other_plan):
        forge(client, good, edit)
    assert all("ours, recorded by " in used and good.run_id in used for used in found_in(tmp_path, local, plan))
    client.log_text(good.run_id, "{}", DECISION)
    assert found_in(tmp_path, local, plan) == ["", ""]


@pytest.mark.fault(
    "verdicts",
    "another account of MLflow forges twenty newer runs whose digests agree, with a copied signature",
    "nothing of them is downloaded; the newest run that this account signed is used",
)
def test_only_runs_that_this_account_signed_are_used(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(USERNAME, "pipeline")
    monkeypatch.setenv(PASSWORD, "ours")
    monkeypatch.setattr(earlier_runs, "PAGE", 6)
    source = f"file:{tmp_path.name}"
    experiment = experiment_name(source, "general-chat")
    plan = plan_of(tmp_path).model_copy(update={"experiment": experiment})
    good = recorded(of_model(source, tmp_path / "ours", plan), mlflow_server, "ours")
    client = MlflowClient(mlflow_server)
    forged = [forge(client, good) for _ in range(20)]
    monkeypatch.setenv(PASSWORD, "theirs")
    theirs = recorded(of_model(source, tmp_path / "theirs", plan), mlflow_server, "theirs")
    assert client.get_run(theirs.run_id).data.tags[SIGNATURE]
    monkeypatch.setenv(PASSWORD, "ours")
    with Proxy(mlflow_server) as proxy:
        used = found_in(tmp_path, proxy.address, plan, source)
    assert all("ours, recorded by this account as pipeline, " in text and good.run_id in text for text in used)
    assert not [request for request in proxy.requests for run_id in (*forged, theirs.run_id) if run_id in request]
    for account in ({USERNAME: "", TOKEN: "another"}, {USERNAME: "pipeline", PASSWORD: "new"}):
        for name, value in account.items():
            monkeypatch.setenv(name, value)
        assert found_in(tmp_path, mlflow_server, plan, source) == ["", ""]
    for name in (USERNAME, PASSWORD, TOKEN):
        monkeypatch.delenv(name)
    assert all(theirs.run_id in text for text in found_in(tmp_path, mlflow_server, plan, source)), (
        "no account, no proof"
    )


@pytest.mark.fault(
    "verdicts",
    "a second experiment claims to have the run that `follow` awaits, or its verdicts in tags or decision are edited",
    "tags do not count; a copy or an edited decision gives no verdict",
)
def test_a_followed_runs_verdict_is_that_of_its_only_and_unedited_decision(tmp_path: Path, local: str) -> None:
    plan, client = plan_of(tmp_path), MlflowClient(local)
    assert find_verdicts("ours", local) == ()
    good = recorded(decided(tmp_path / "ours", plan), local, "ours")
    expected = find_verdicts("ours", local)
    assert [verdict for _, verdict, _ in expected] == ["monitor"]
    for run_id in (good.run_id, *good.children.values()):
        client.set_tag(run_id, "verdict", "ship")
    assert find_verdicts("ours", local) == expected
    theirs = recorded(of_model("file:elsewhere", tmp_path / "theirs", plan), local, "ours")
    with pytest.raises(PrerequisiteError, match="2 of its runs claim to be the run ours"):
        find_verdicts("ours", local)
    client.delete_run(theirs.run_id)
    edited = json.loads(Path(client.download_artifacts(good.run_id, DECISION)).read_text(encoding="utf-8"))
    edited["verdicts"][1]["verdict"] = "ship"
    client.log_text(good.run_id, json.dumps(edited), DECISION)
    with pytest.raises(PrerequisiteError, match="not to be relied on: the verdicts or the scores are not those"):
        find_verdicts("ours", local)


def test_a_signature_fits_one_run_one_digest_one_secret_and_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    at = "http://mlflow:5000"
    assert signature("run", "digest", at) == ""
    monkeypatch.setenv(PASSWORD, "secret")
    assert signature("run", "digest", at) == "", "without a user name MLflow's client sends no password"
    monkeypatch.setenv(USERNAME, "me")
    given = signature("run", "digest", at)
    monkeypatch.setenv(TOKEN, "token")
    assert given == signature("run", "digest", at) == signature("run", "digest", "http://mlflow:5000/")
    assert signature("run", "digest", "sqlite:///mlflow.db") == signature("run", "", at) == ""
    others = [signature("other", "digest", at), signature("run", "other", at), signature("run", "digest", "http://b")]
    monkeypatch.delenv(USERNAME)
    others.append(signature("run", "digest", at))
    assert len({given, *others}) == 5
    assert all(len(text) == 64 for text in others)


@pytest.mark.fault(
    "verdicts",
    "another account creates the pipeline's experiment first, without rights for the pipeline",
    "the run is refused before the weights are quantized, with the experiment's name and the remedy",
)
def test_an_experiment_without_rights_is_refused_with_the_remedy(mlflow_server: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    source = f"file:{tmp_path.name}"
    decision, name = of_model(source, tmp_path / "ours", plan), experiment_name(source, "general-chat")
    MlflowClient(mlflow_server).create_experiment(name)

    def denied(number: int, _headers: object) -> int:
        writes = ("runs/create", "set-experiment-tag")
        return 403 if any(call in proxy.requests[number - 1] for call in writes) else 0

    remedy = f"denies this account access to the experiment '{name}'(.|\n)*give this account EDIT"
    with Proxy(mlflow_server, before=denied) as proxy:
        with pytest.raises(PrerequisiteError, match=remedy):
            check_experiment(proxy.address, name, source)
        with pytest.raises(PrerequisiteError, match=remedy):
            recorded(decision, proxy.address, "ours")
    check_experiment(mlflow_server, name, source)
    check_experiment("http://127.0.0.1:9", name, source)
    tracked = recorded(decision, mlflow_server, "ours")
    assert EVIDENCE in MlflowClient(mlflow_server).get_run(tracked.run_id).data.params
