"""The registry: no command makes a version champion that its verdict does not allow."""

from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import check_stored
from quantgate.components.models.gguf_file import NOT_ON_KSERVE
from quantgate.components.policies.policy import use_case_named
from quantgate.components.promote import step as promote_step
from quantgate.components.promote.promotion import Promotion, promote, rollback
from quantgate.components.promote.registry import DIGEST, RUN, Registered, model_name, register
from quantgate.components.run.results import RunResults
from quantgate.components.track.mlflow_writer import track
from quantgate.pipelines.cli.app import answer
from quantgate.pipelines.cli.mlflow_commands import registry_lines
from tests.support.decided import FACTS, called, digested, make_decision, report_files
from tests.support.mlflow_store import empty_store, local
from tests.support.registered import aliases, placed, registered, stored

__all__ = ["empty_store", "local"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("weights_of_no_store")]


def run(*arguments: str) -> int:
    """The exit status of `quantgate` with these arguments."""
    with pytest.raises(SystemExit) as end:
        answer(list(arguments))
    return int(end.value.code or 0)


def test_every_judged_variant_becomes_a_version_and_the_best_the_candidate(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local, failed="int4-g64")
    assert list(registration.versions) == ["bf16", "int8", "int4-g128"]
    assert registration.candidate == "int8"
    assert aliases(local, registration.model) == {"candidate": registration.versions["int8"]}
    version = MlflowClient(local).get_model_version(registration.model, registration.versions["int8"])
    assert version.source == "s3://bucket/int8"
    assert version.tags[DIGEST] == "digest of int8"


def test_the_same_weights_are_one_version_however_often_they_are_tracked(tmp_path: Path, local: str) -> None:
    first, again = registered(tmp_path, local), registered(tmp_path, local)
    later = registered(tmp_path, local, run="run-2")
    assert first == again
    assert later.versions == first.versions
    client = MlflowClient(local)
    assert len(client.search_model_versions(f"name='{first.model}'")) == 4
    assert client.get_model_version(first.model, first.versions["int8"]).tags[RUN] != (
        client.get_model_version(first.model, first.versions["int8"]).run_id
    ), "the tag names the run that judged it last"


def test_the_candidate_that_ships_becomes_champion_and_a_repetition_changes_nothing(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    once, twice = promote(local, registration.model), promote(local, registration.model)
    assert once == twice
    assert (once.champion, once.variant, once.verdict, once.previous) == (
        registration.versions["int8"],
        "int8",
        "ship",
        "",
    )
    assert once.weights == "s3://bucket/int8"
    assert aliases(local, registration.model)["champion"] == registration.versions["int8"]


@pytest.mark.parametrize("variant", ["int4-g128", "int4-g64"])
def test_no_other_verdict_becomes_champion(tmp_path: Path, local: str, variant: str) -> None:
    registration = registered(tmp_path, local)
    for _ in range(2):
        with pytest.raises(PrerequisiteError, match="its verdict is (monitor|reject)"):
            promote(local, registration.model, registration.versions[variant])
        assert "champion" not in aliases(local, registration.model)


def test_a_monitored_variant_becomes_champion_if_the_policy_allows_it_and_a_rejected_one_never(
    tmp_path: Path, local: str
) -> None:
    registration = registered(tmp_path, local)
    allowed = ("ship", "monitor")
    assert promote(local, registration.model, registration.versions["int4-g128"], allowed=allowed).verdict == "monitor"
    with pytest.raises(PrerequisiteError, match="its verdict is reject"):
        promote(local, registration.model, registration.versions["int4-g64"], allowed=allowed)


@pytest.mark.parametrize("tag", [DIGEST, "quantgate.baseline_digest"])
def test_a_version_with_another_digest_is_refused(tmp_path: Path, local: str, tag: str) -> None:
    registration = registered(tmp_path, local)
    MlflowClient(local).set_model_version_tag(registration.model, registration.versions["int8"], tag, "another")
    with pytest.raises(PrerequisiteError, match=f"its {tag} is another"):
        promote(local, registration.model)


def test_a_version_that_borrows_anothers_verdict_is_refused(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    client = MlflowClient(local)
    good = client.get_model_version(registration.model, registration.versions["int8"])
    for key, value in good.tags.items():
        client.set_model_version_tag(registration.model, registration.versions["int4-g64"], key, value)
    with pytest.raises(PrerequisiteError, match="it points at s3://bucket/int4-g64"):
        promote(local, registration.model, registration.versions["int4-g64"])


def test_force_needs_a_reason_which_is_recorded(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    with pytest.raises(PrerequisiteError, match="--force with the reason"):
        promote(local, registration.model, registration.versions["int4-g64"], force="  ")
    done = promote(local, registration.model, registration.versions["int4-g64"], force="the fair is today")
    assert done.forced == "the fair is today"
    reason = MlflowClient(local).get_model_version(registration.model, done.champion).tags["quantgate.forced"]
    assert "the fair is today" in reason
    assert "its verdict is reject" in reason


def test_the_previous_champion_is_remembered_and_restored_by_a_rollback(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    with pytest.raises(PrerequisiteError, match="has no champion"):
        rollback(local, registration.model)
    promote(local, registration.model, registration.versions["bf16"])
    with pytest.raises(PrerequisiteError, match="has no previous"):
        rollback(local, registration.model)
    assert promote(local, registration.model).previous == registration.versions["bf16"]
    assert promote(local, registration.model).previous == registration.versions["bf16"], "again changes nothing"
    back = rollback(local, registration.model)
    assert (back.champion, back.previous) == (registration.versions["bf16"], registration.versions["int8"])
    assert rollback(local, registration.model).champion == registration.versions["int8"]


def test_the_command_promotes_writes_the_patch_and_rolls_back(
    tmp_path: Path, local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registration = registered(tmp_path, local)
    at = (registration.model, "--tracking-uri", local)
    patch = ("--kserve", str(tmp_path / "patch.yaml"), "--service", "tutor")
    assert run("promote", *at, "--version", registration.versions["bf16"]) == 0
    assert run("promote", *at, *patch) == 0
    written_patch = yaml.safe_load((tmp_path / "patch.yaml").read_text())
    assert written_patch["spec"]["predictor"]["model"]["storageUri"] == "s3://bucket/int8"
    assert written_patch["metadata"]["name"] == "tutor"
    assert run("rollback", *at, *patch) == 0
    assert "s3://bucket/bf16" in (tmp_path / "patch.yaml").read_text()
    assert f"champion is version {registration.versions['bf16']}, bf16 (reference)" in capsys.readouterr().out


def test_no_option_of_the_command_lets_a_rejected_variant_through_without_a_reason(
    tmp_path: Path, local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registration = registered(tmp_path, local)
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: mine\nmax_average_drop: 99 %\npromotes: [ship, monitor]\n")
    at = ("promote", registration.model, "--tracking-uri", local, "--version", registration.versions["int4-g64"])
    for options in ((), ("--policy", str(policy)), ("--force", ""), ("--policy", "code", "--force", " ")):
        assert run(*at, *options) == 2
    policy.write_text("name: mine\nmax_average_drop: 99 %\npromotes: [ship, reject]\n")
    assert run(*at, "--policy", str(policy)) == 2
    assert "champion" not in aliases(local, registration.model)
    assert "its verdict is reject" in capsys.readouterr().err


def test_weights_that_no_cluster_can_load_are_refused_before_an_alias_moves(tmp_path: Path, local: str) -> None:
    decision = placed(make_decision(tmp_path))
    weights = tuple(weights.model_copy(update={"uri": str(tmp_path / weights.variant)}) for weights in decision.weights)
    decision = decision.model_copy(update={"weights": weights})
    registration = register(decision, track(digested(decision), FACTS, report_files(tmp_path), local), local)
    patch = ("--kserve", str(tmp_path / "patch.yaml"), "--service", "tutor")
    assert run("promote", registration.model, "--tracking-uri", local, *patch) == 2
    assert "champion" not in aliases(local, registration.model)
    assert run("promote", registration.model, "--tracking-uri", local) == 0


def test_a_patch_for_a_gguf_file_is_refused_before_an_alias_moves(
    tmp_path: Path, local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """KServe's vLLM would answer in place of the llama.cpp that was judged."""
    decision = placed(make_decision(tmp_path))
    weights = tuple(
        row.model_copy(update={"algorithm": "gguf"}) if row.variant == "int8" else row for row in decision.weights
    )
    decision = digested(decision.model_copy(update={"weights": weights}))
    registration = register(decision, track(decision, FACTS, report_files(tmp_path), local), local)
    patch = tmp_path / "patch.yaml"
    at = (registration.model, "--tracking-uri", local)
    assert run("promote", *at, "--kserve", str(patch), "--service", "tutor") == 2
    assert NOT_ON_KSERVE in capsys.readouterr().err
    assert ("champion" in aliases(local, registration.model), patch.exists()) == (False, False)
    assert run("promote", *at) == 0, "without a patch it may become champion"


@pytest.mark.fault(
    "weights",
    "stored weights are changed after the verdict",
    "`promote` and `rollback` read them again and refuse them",
)
def test_weights_that_changed_after_the_verdict_do_not_become_champion(
    tmp_path: Path, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantgate.components.promote.promotion.check_stored", check_stored)
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    decision = make_decision(tmp_path)
    weights = tuple(stored(tmp_path, weights) for weights in decision.weights)
    decision = decision.model_copy(update={"weights": weights})
    registration = register(decision, track(digested(decision), FACTS, report_files(tmp_path), local), local)
    assert promote(local, registration.model, registration.versions["bf16"]).variant == "bf16"
    assert promote(local, registration.model).variant == "int8"
    for variant, command in (("bf16", rollback), ("int4-g128", lambda *_: promote_forced(local, registration))):
        file = Path(next(row.uri for row in weights if row.variant == variant)) / "model.safetensors"
        file.write_bytes(bytes(file.stat().st_size))
        with pytest.raises(PrerequisiteError, match="model.safetensors has other bytes"):
            command(local, registration.model)
    assert aliases(local, registration.model)["champion"] == registration.versions["int8"]


def promote_forced(local: str, registration: Registered) -> Promotion:
    """Promote a variant against its verdict."""
    return promote(local, registration.model, registration.versions["int4-g128"], force="the fair is today")


def test_a_missing_model_or_version_is_reported_with_the_existing_ones(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    with pytest.raises(PrerequisiteError, match=f"no registered model nobody. It has: {registration.model}"):
        promote(local, "nobody")
    with pytest.raises(PrerequisiteError, match="no version 99"):
        promote(local, registration.model, "99")


def test_a_rollback_to_a_version_that_may_not_serve_is_refused(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    promote(local, registration.model)
    MlflowClient(local).set_registered_model_alias(registration.model, "previous", registration.versions["int4-g64"])
    with pytest.raises(PrerequisiteError, match="may not become champion again: its verdict is reject"):
        rollback(local, registration.model)
    assert aliases(local, registration.model)["champion"] == registration.versions["int8"]


def test_a_version_that_points_at_its_run_cannot_borrow_anothers_verdict(tmp_path: Path, local: str) -> None:
    """A server does not accept another machine's folder as a source, so such a version points at its run."""
    registration = registered(tmp_path, local)
    client = MlflowClient(local)
    good, bad = (
        client.get_model_version(registration.model, registration.versions[name]) for name in ("int8", "int4-g64")
    )
    created = client.create_model_version(
        registration.model, f"runs:/{bad.run_id}/weights.json", run_id=bad.run_id, tags=dict(good.tags)
    )
    with pytest.raises(PrerequisiteError, match="has the digest digest of int4-g64"):
        promote(local, registration.model, str(created.version))


REJECTED = dict.fromkeys(("int8", "int4_g128", "int4_g64"), "reject")


def test_a_run_without_an_eligible_variant_leaves_no_candidate(tmp_path: Path, local: str) -> None:
    registered(tmp_path, local, judged_at=1.0)
    registration = registered(tmp_path, local, run="run-2", judged_at=2.0, **REJECTED)
    assert registration.candidate == ""
    assert "candidate" not in aliases(local, registration.model)
    with pytest.raises(PrerequisiteError, match="has no candidate"):
        promote(local, registration.model)


@pytest.mark.parametrize(("verdict", "candidate"), [("ship", "int4-g64"), ("inconclusive", "int8")])
def test_the_smallest_variant_that_may_serve_is_candidate_then_the_one_with_the_least_drop(
    tmp_path: Path, local: str, verdict: str, candidate: str
) -> None:
    registration = registered(tmp_path, local, int8=verdict, int4_g128=verdict, int4_g64=verdict)
    assert registration.candidate == candidate


def test_an_older_verdict_that_is_sent_late_does_not_replace_a_newer_one(tmp_path: Path, local: str) -> None:
    registered(tmp_path, local, run="run-2", judged_at=2.0, **REJECTED)
    late = registered(tmp_path, local, run="run-1", judged_at=1.0)
    assert late.candidate == ""
    assert "candidate" not in aliases(local, late.model)
    with pytest.raises(PrerequisiteError, match="its verdict is reject"):
        promote(local, late.model, late.versions["int8"])


@pytest.mark.parametrize("state", ["deleted", "FAILED"])
def test_a_verdict_whose_run_was_deleted_or_did_not_end_promotes_nothing(
    tmp_path: Path, local: str, state: str
) -> None:
    registration = registered(tmp_path, local)
    client = MlflowClient(local)
    run_id = client.get_model_version(registration.model, registration.versions["int8"]).tags[RUN]
    if state == "deleted":
        client.delete_run(run_id)
    else:
        client.set_terminated(run_id, status=state)
    with pytest.raises(PrerequisiteError, match=f"which is {state}"):
        promote(local, registration.model)
    assert "champion" not in aliases(local, registration.model)


def test_weights_in_a_moved_store_are_a_separate_version(tmp_path: Path, local: str) -> None:
    first = registered(tmp_path, local)
    decision = make_decision(tmp_path)
    elsewhere = tuple(
        weights.model_copy(update={"uri": f"s3://other/{weights.variant}"}) for weights in decision.weights
    )
    decision = decision.model_copy(update={"weights": elsewhere})
    facts = FACTS.model_copy(update={"run_id": "run-2"})
    registration = register(decision, track(digested(decision), facts, report_files(tmp_path), local), local)
    assert registration.versions["int8"] != first.versions["int8"]
    assert promote(local, registration.model).weights == "s3://other/int8"


def test_the_same_weights_with_another_key_value_cache_are_a_version_of_their_own(tmp_path: Path, local: str) -> None:
    first = registered(tmp_path, local)
    decision = placed(make_decision(tmp_path))
    shared = {"digest": decision.weights[1].digest, "uri": decision.weights[1].uri, "kv_cache_dtype": "fp8"}
    weights = tuple(row.model_copy(update=shared if row.variant == "int4-g128" else {}) for row in decision.weights)
    decision = decision.model_copy(update={"weights": weights})
    registration = register(decision, track(digested(decision), FACTS, report_files(tmp_path), local), local)
    versions = registration.versions
    assert versions["int8"] == first.versions["int8"] != versions["int4-g128"]
    promoted = promote(local, registration.model, versions["int4-g128"], allowed=("monitor",))
    assert (promoted.variant, promoted.kv_cache_dtype) == ("int4-g128", "fp8")


def test_a_name_contains_nothing_that_breaks_mlflows_search(tmp_path: Path, local: str) -> None:
    assert model_name("file:/data/bob's model", "Bob's tutor").startswith("file-data-bob-s-model.Bob-s-tutor.")
    decision = called(placed(make_decision(tmp_path)), "Bob's tutor")
    registration = register(decision, track(digested(decision), FACTS, report_files(tmp_path), local), local)
    assert registration.candidate == "int8"


def test_a_patch_is_one_object_for_any_reason_text(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    patch = tmp_path / "patch.yaml"
    options = ("--version", registration.versions["int4-g64"], "--kserve", str(patch), "--service", "tutor")
    assert run("promote", registration.model, "--tracking-uri", local, *options, "--force", "a\nspec: {}") == 0
    assert yaml.safe_load(patch.read_text())["spec"]["predictor"]["model"]["storageUri"] == "s3://bucket/int4-g64"


def test_the_step_moves_no_alias_if_the_verdict_was_copied_from_an_earlier_run(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    promote(local, registration.model)
    promote(local, registration.model, registration.versions["bf16"])  # somebody went back
    decision = placed(make_decision(tmp_path))
    tracked = track(decision, FACTS, report_files(tmp_path), local)
    places = {name: str(tmp_path / f"{name}.json") for name in ("decision", "tracked", "promoted")}
    decision.model_copy(update={"judged_in": tracked.link}).write(places["decision"])
    tracked.write(places["tracked"])
    promote_step.promote(places["decision"], places["tracked"], str(tmp_path), local, places["promoted"], move=True)
    assert aliases(local, registration.model)["champion"] == registration.versions["bf16"]
    assert Registered.read(places["promoted"]).versions == {}


def test_a_registry_that_refuses_does_not_fail_the_run(
    tmp_path: Path, local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    decision = placed(make_decision(tmp_path))
    tracked = track(decision, FACTS, report_files(tmp_path), local)
    places = {name: str(tmp_path / f"{name}.json") for name in ("decision", "tracked", "promoted")}
    decision.write(places["decision"])
    tracked.write(places["tracked"])
    FACTS.write(tmp_path / "facts.json")
    promote_step.promote(
        places["decision"], places["tracked"], str(tmp_path), "http://127.0.0.1:9", places["promoted"], move=True
    )
    assert f"To register it later: quantgate track {tmp_path}" in capsys.readouterr().out
    assert Registered.read(places["promoted"]).candidate == ""


@pytest.mark.parametrize(
    ("use_case", "verdict", "line"),
    [
        ("general-chat", "ship", "to promote it:"),
        ("general-chat", "monitor", "the policy does not let it become champion"),
    ],
)
def test_the_end_of_a_run_shows_what_may_be_promoted(
    tmp_path: Path, local: str, use_case: str, verdict: str, line: str
) -> None:
    registration = registered(tmp_path, local, int8=verdict, int4_g128="reject")
    registration.write(tmp_path / "registered.json")
    decision = make_decision(tmp_path)
    rows = tuple(
        row.model_copy(update={"verdict": verdict}) if row.variant == "int8" else row for row in decision.verdicts
    )
    said = registry_lines(
        RunResults(str(tmp_path)),
        decision.model_copy(update={"verdicts": rows, "limits": use_case_named(use_case)}),
        local,
    )
    assert said[0].endswith(line)
    assert len(said) == (2 if verdict == "ship" else 1)
    promote(local, registration.model, registration.versions["int8"], allowed=["ship", "monitor"]).write(
        tmp_path / "promotion.json"
    )
    assert "champion is version" in registry_lines(RunResults(str(tmp_path)), decision, local)[0]


def test_the_end_of_a_run_reports_that_the_registry_refused(tmp_path: Path, local: str) -> None:
    assert registry_lines(RunResults(str(tmp_path)), make_decision(tmp_path), local) == [
        f"the variants are not registered; to do it later: quantgate track {tmp_path}"
    ]


def test_the_end_of_a_run_shows_no_promotion_if_the_verdict_was_copied(tmp_path: Path, local: str) -> None:
    assert (
        registry_lines(
            RunResults(str(tmp_path)),
            make_decision(tmp_path).model_copy(update={"judged_in": "sqlite:///mlflow.db: 1"}),
            local,
        )
        == []
    )
