"""A verdict carries what it was reached by, and promote compares all of it with what MLflow holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.gate import step as gate_step
from quantgate.components.promote.promotion import promote, rollback
from quantgate.components.promote.registry import DIGEST, RUN, Registered, register
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.evidence_digests import digests_of
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.facts import RunFiles
from quantgate.components.tracking.tags import DECISION, EVIDENCE, SOURCE_TAG
from tests.support.answered import answers_of, candidate_of, pair_of, write_results
from tests.support.decided import FACTS, digested, make_decision
from tests.support.mlflow_store import empty_store, local
from tests.support.registered import aliases, placed, registered

__all__ = ["empty_store", "local"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("weights_of_no_store")]

Edit = Callable[[dict[str, Any]], object]


def planned(folder: Path, **changes: Any) -> Decision:
    """A decision with a plan and its digests."""
    decision = placed(make_decision(folder))
    plan = EvaluationPlan(variants=("bf16", "int8"), store=str(folder), results=str(folder), limits=decision.limits)
    return digested(decision.model_copy(update={"plan": plan, **changes}))


def recorded(decision: Decision, local: str) -> tuple[Registered, str]:
    """The decision's versions in the registry, and the id of its run."""
    tracked = track(decision, FACTS, RunFiles(), local)
    return register(decision, tracked, local), tracked.run_id


def rewritten(local: str, run_id: str, name: str, edit: Edit) -> None:
    """Replace the run's file as everybody can who may write to MLflow."""
    client = MlflowClient(local)
    content = json.loads(Path(client.download_artifacts(run_id, name)).read_text(encoding="utf-8"))
    edit(content)
    client.log_text(run_id, json.dumps(content), name)


def with_digests(content: dict[str, Any]) -> None:
    """Recompute the digests, as a careful forger does."""
    known = content["digests"]["records"]
    content["digests"] = digests_of(json.dumps(content), known).model_dump()


def consistent(edit: Edit) -> Edit:
    def both(content: dict[str, Any]) -> None:
        edit(content)
        with_digests(content)

    return both


def ships(content: dict[str, Any]) -> None:
    for row in content["verdicts"]:
        row["verdict"] = "reference" if row["variant"] == "bf16" else "ship"


EDITS: dict[str, tuple[Edit, str]] = {
    "a limit": (
        lambda content: content["limits"].update(max_average_drop=0.985),
        "the policy is not the one that the variants were judged by: judge it again",
    ),
    "a limit, in the digests too": (
        consistent(lambda content: content["limits"].update(max_average_drop=0.985)),
        f"its digests are not those of the run's parameter {EVIDENCE}: judge it again",
    ),
    "the plan": (
        lambda content: content["plan"].update(limit=20),
        "the evaluation plan is not the one that the variants were judged by",
    ),
    "a digest of weights": (
        lambda content: content["weights"][1].update(digest="another"),
        "the digests of the weights are not those of the weights that were judged",
    ),
    "the base model": (
        lambda content: content["model"].update(digest="another"),
        "the base model is not the one that the variants were judged against",
    ),
    "a score": (
        lambda content: content["scores"][1]["tasks"][0].update(score=0.9),
        "the verdicts or the scores are not those that the gate wrote",
    ),
    "the number of the attempt": (
        lambda content: content.update(attempt={"number": 1, "run": 1}),
        "the verdicts or the scores are not those that the gate wrote",
    ),
    "the verdicts": (ships, "the verdicts or the scores are not those that the gate wrote"),
    "the verdicts, in the digests too": (
        consistent(ships),
        f"its digests are not those of the run's parameter {EVIDENCE}",
    ),
    "the digests themselves": (
        lambda content: content.update(digests=None),
        "it was recorded without digests of what it was judged by, by an earlier version: judge it again",
    ),
}


@pytest.mark.fault(
    "verdicts",
    "somebody who may write to MLflow edits policy, plan, weights' digests, scores or verdicts of a run, alone or"
    " with the digests",
    "`promote` recomputes the digests, refuses, and names what differs",
)
def test_an_edited_decision_promotes_nothing(tmp_path: Path, local: str) -> None:
    decision = planned(tmp_path)
    registration, run_id = recorded(decision, local)
    client, version = MlflowClient(local), registration.versions["int8"]
    for what, (edit, sentence) in EDITS.items():
        digest = "another" if what == "a digest of weights" else "digest of int8"  # the tag is not what refuses it
        client.set_model_version_tag(registration.model, version, DIGEST, digest)
        client.log_text(run_id, decision.model_dump_json(), DECISION)
        rewritten(local, run_id, DECISION, edit)
        with pytest.raises(PrerequisiteError) as refusal:
            promote(local, registration.model)
        assert sentence in str(refusal.value), what
    assert "champion" not in aliases(local, registration.model)
    client.set_model_version_tag(registration.model, version, DIGEST, "digest of int8")
    assert promote(local, registration.model, force="the fair is today").forced == "the fair is today"
    client.log_text(run_id, decision.model_dump_json(), DECISION)
    assert promote(local, registration.model).forced == ""


@pytest.mark.fault(
    "verdicts", "verdict.json of a rejected variant's run in MLflow is replaced", "the gate's decision still decides"
)
def test_a_forged_verdict_of_a_variant_does_not_count(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    version = MlflowClient(local).get_model_version(registration.model, registration.versions["int4-g64"])
    rewritten(local, version.tags[RUN], "verdict.json", lambda content: content.update(verdict="ship"))
    with pytest.raises(PrerequisiteError, match="its verdict is reject"):
        promote(local, registration.model, registration.versions["int4-g64"])


@pytest.mark.fault(
    "verdicts",
    "a verdict by a limit of 98.5 % under the name of a shipped use case",
    "`promote` compares the content with the shipped one and refuses",
)
def test_other_limits_under_a_shipped_name_promote_nothing(tmp_path: Path, local: str) -> None:
    limits = make_decision(tmp_path).limits.model_copy(update={"max_average_drop": 0.985})
    registration, _ = recorded(planned(tmp_path, limits=limits), local)
    sentence = r"the name of the shipped use case general-chat and other limits \(average at most 98.5 %\)"
    with pytest.raises(PrerequisiteError, match=sentence):
        promote(local, registration.model)


@pytest.mark.fault(
    "verdicts",
    "the per-item records of a run are replaced after the verdict, in MLflow or in the results",
    "`promote` and `rollback` refuse, and name the variant",
)
def test_other_records_than_those_that_were_judged_promote_nothing(tmp_path: Path, local: str) -> None:
    decision = planned(tmp_path)
    tracked = track(decision, FACTS, RunFiles(), local)
    registration = register(decision, tracked, local)
    promote(local, registration.model, registration.versions["bf16"])
    promote(local, registration.model)
    records, client = Path(decision.scores[0].records), MlflowClient(local)
    judged = records.read_bytes()

    def refused() -> None:
        for command in (promote, rollback):
            with pytest.raises(PrerequisiteError, match="the records of bf16 have other bytes than those that were"):
                command(local, registration.model)

    records.write_bytes(b"other rows")
    assert promote(local, registration.model).unread == (), "a later run in the folder may have replaced the results"
    client.log_artifact(tracked.children["bf16"], str(records))
    refused()
    (tmp_path / "my results" / "artifacts" / tracked.children["bf16"] / "artifacts" / records.name).unlink()
    refused()
    records.write_bytes(judged)
    assert promote(local, registration.model).unread == ()


@pytest.mark.fault(
    "verdicts",
    "a registered model gets a version of another base model, or another base model as its source",
    "`promote` and `rollback` refuse, and name both base models",
)
def test_a_registered_model_promotes_only_its_own_base_model(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    client, versions = MlflowClient(local), registration.versions
    promote(local, registration.model, versions["bf16"])
    promote(local, registration.model)
    borrowed = "hf-org-another.general-chat"
    client.create_registered_model(borrowed, {SOURCE_TAG: "hf:org/model"})
    good = client.get_model_version(registration.model, versions["int8"])
    stolen = client.create_model_version(borrowed, str(good.source), run_id=good.run_id, tags=dict(good.tags))
    with pytest.raises(PrerequisiteError, match=f"whose registered model is {registration.model}, not {borrowed}"):
        promote(local, borrowed, str(stolen.version))
    for source, named in (("hf:org/another", "hf:org/another"), ("", "no recorded base model")):
        client.set_registered_model_tag(registration.model, SOURCE_TAG, source)
        for command in (promote, rollback):
            with pytest.raises(PrerequisiteError, match=f"is that of {named}, but hf:org/model was judged"):
                command(local, registration.model)
    assert aliases(local, registration.model)["champion"] == versions["int8"]


def test_records_that_cannot_be_read_are_named(tmp_path: Path, local: str) -> None:
    decision = planned(tmp_path)
    unreadable = decision.scores[0].model_copy(update={"records": str(tmp_path / "gone" / "full.parquet")})
    changed = decision.model_copy(update={"scores": (unreadable, *decision.scores[1:]), "digests": None})
    known = decision.digests.records if decision.digests else {}
    changed = changed.model_copy(update={"digests": digests_of(changed.model_dump_json(), known)})
    registration, _ = recorded(changed, local)
    assert promote(local, registration.model).unread == (f"the records of bf16, {unreadable.records}",)


def test_the_gate_records_what_it_judged_by(tmp_path: Path) -> None:
    results = RunResults(str(tmp_path / "results"))
    plan = planned(tmp_path).plan
    assert plan
    plan = plan.model_copy(update={"results": results.location})
    places: dict[str, list[str]] = {"weights": [], "scores": []}
    for name, scores in zip(("bf16", "int8"), pair_of(lost=3, gained=2, right=60, wrong=35), strict=True):
        judged = candidate_of(name, {"arc_easy": answers_of("arc_easy", scores)})
        folder = write_results(Path(results.location) / "variants" / name, judged)
        judged.weights.model_copy(update={"digest": f"d-{name}"}).write(tmp_path / f"{name}-weights.json")
        kept = judged.scores.model_copy(update={"records": str(folder / "full.parquet")})
        kept.write(tmp_path / f"{name}-scores.json")
        places["weights"].append(str(tmp_path / f"{name}-weights.json"))
        places["scores"].append(str(tmp_path / f"{name}-scores.json"))
    plan.write(tmp_path / "plan.json")
    planned(tmp_path).model.write(tmp_path / "model.json")
    decision = str(tmp_path / "decision.json")
    model, planning = str(tmp_path / "model.json"), str(tmp_path / "plan.json")
    gate_step.gate(model, planning, places["weights"], places["scores"], decision)
    answer = Decision.read(decision)
    assert answer.digests
    assert answer.digests.weights == {"bf16": "d-bf16", "int8": "d-int8"}
    assert answer.digests.baseline == "base"
    assert answer.digests.records == {
        name: sha256_of(Path(Scores.read(file).records))
        for name, file in zip(("bf16", "int8"), places["scores"], strict=True)
    }
    read = Path(decision).read_text(encoding="utf-8")
    assert digests_of(read, answer.digests.records) == answer.digests
    elsewhere = plan.model_copy(update={"store": "s3://bucket/store", "results": "s3://bucket/results"})
    relocated = answer.model_copy(update={"plan": elsewhere})
    assert digests_of(relocated.model_dump_json(), answer.digests.records) == answer.digests
    fewer = answer.model_copy(update={"plan": plan.model_copy(update={"limit": 20})})
    assert digests_of(fewer.model_dump_json(), {}).plan != answer.digests.plan
