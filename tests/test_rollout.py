"""What carries a verdict out: the steps of each verdict, KServe's objects, the files, and what is refused."""

import math
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.special import ndtri

from quantgate.components.kubernetes.cluster_client import INFERENCE_SERVICE, LLM_INFERENCE_SERVICE
from quantgate.components.report import step as report_step
from quantgate.components.rollout.gitops_files import Rollout, prepared, written_plan
from quantgate.components.rollout.kserve_services import Release
from quantgate.components.rollout.live_metrics import METRICS, prometheus_rule
from quantgate.components.rollout.live_test import live_test
from quantgate.components.rollout.rollout_plan import (
    KNATIVE,
    LONGEST_SERVICE,
    Destination,
    plan_rollout,
    requests_without_error,
)
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import FULL, RunResults
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.servers.cluster_settings import ServingSettings
from quantgate.components.track.spool import spooled_run
from quantgate.components.tracking.uris import local_tracking_uri
from tests.support.command import Done, quantgate
from tests.support.decided import FACTS, digested, make_decision
from tests.support.kubernetes_server import running
from tests.support.kubernetes_state import Cluster
from tests.support.kustomized import kustomized
from tests.support.model_registry import ModelRegistry, registry_running
from tests.support.registered import placed, stored

SETTINGS = ServingSettings()


def decided(folder: Path, **verdicts: str) -> Decision:
    """Four variants with weights in S3: int8 ships, int4-g128 is monitored, int4-g64 needs an A/B test."""
    decision = placed(make_decision(folder))
    changed = {"int4-g64": {"verdict": "ab_test", "average_drop": 0.039}}
    changed |= {name.replace("_", "-"): {"verdict": verdict} for name, verdict in verdicts.items()}
    rows = tuple(row.model_copy(update=changed.get(row.variant, {})) for row in decision.verdicts)
    weights = tuple(row.model_copy(update={"digest": f"{place}a" * 32}) for place, row in enumerate(decision.weights))
    return digested(decision.model_copy(update={"verdicts": rows, "weights": weights}))


def in_results(decision: Decision, folder: Path) -> RunResults:
    """The results of a finished run with the decision."""
    results = RunResults(str(folder))
    results.decision.put_text(decision.model_dump_json(indent=2))
    return results


def with_flow(verdict: Verdict) -> Verdict:
    return verdict.model_copy(update={"scores": {**verdict.scores, "flows": 0.01}})


def ready(decision: Decision, variant: str, **changes: Any) -> Rollout:
    destination = Destination(**{"service": "tutor", **changes})
    return prepared(decision, plan_rollout(decision, variant, destination), destination, SETTINGS)


def service_of(rollout: Rollout, step: int) -> dict[str, Any]:
    (service,) = rollout.objects(INFERENCE_SERVICE, step)
    return dict(service["spec"])


@pytest.mark.parametrize(
    ("variant", "verdict", "percents"),
    [
        ("int8", "ship", [100]),
        ("int4-g128", "monitor", [5, 25, 50, 100]),
        ("int4-g64", "ab_test", [50, 100]),
        ("int8", "reject", []),
        ("int8", "inconclusive", []),
        ("int8", "not_comparable", []),
        ("int8", "failed", []),
    ],
)
def test_each_verdict_has_its_steps(tmp_path: Path, variant: str, verdict: str, percents: list[int]) -> None:
    decision = decided(tmp_path, **{variant.replace("-", "_"): verdict})
    plan = plan_rollout(decision, variant, Destination())
    assert [step.percent for step in plan.steps] == percents
    assert bool(plan.refusal) == (not percents)
    if not percents:
        assert plan.refusal == f"The verdict on int8 is {verdict}: int8 is as it is."
        assert list(written_plan(decision, variant, SETTINGS)) == ["README.md", "rollout.json"]


def test_a_gguf_file_has_no_steps_whatever_its_verdict(tmp_path: Path) -> None:
    """The services would run vLLM, and with another engine than the one that was judged."""
    decision = decided(tmp_path, int8="ship")
    weights = tuple(
        row.model_copy(update={"algorithm": "gguf"}) if row.variant == "int8" else row for row in decision.weights
    )
    decision = decision.model_copy(update={"weights": weights})
    for variant, destination in (("int8", Destination()), ("int4-g128", Destination(replaces="int8"))):
        plan = plan_rollout(decision, variant, destination)
        assert plan.steps == ()
        assert plan.refusal.startswith("A GGUF file is judged on llama.cpp, and quantgate writes services of vLLM")


def test_a_canary_grows_beside_a_predictor_that_no_step_changes(tmp_path: Path) -> None:
    rollout = ready(decided(tmp_path), "int4-g128")
    steps = [service_of(rollout, step) for step in (1, 2, 3)]
    assert [step["canary"][0]["trafficPercent"] for step in steps] == [5, 25, 50]
    stable, canary = steps[0]["predictor"], steps[0]["canary"][0]["predictor"]
    assert (stable["name"], canary["name"]) == ("bf16-0a0a0a0a", "int4-g128-2a2a2a2a")
    assert canary["model"]["storageUri"] == "s3://bucket/int4-g128"
    assert canary["model"]["args"][:3] == ["--served-model-name", "int4-g128-2a2a2a2a", "tutor"]
    assert "maxReplicas" not in canary, "KServe refuses it"
    assert all(step["predictor"] == stable and step["canary"][0]["predictor"] == canary for step in steps)
    assert service_of(rollout, 4) == {"predictor": canary}, "the canary takes all traffic with the pods that it has"
    assert service_of(rollout, 0) == {"predictor": stable}, "the rollback is the service before"


def test_with_knative_the_variant_is_the_new_revision_and_has_a_percentage(tmp_path: Path) -> None:
    rollout = ready(decided(tmp_path), "int4-g128", mode=KNATIVE)
    shares = [service_of(rollout, step)["predictor"].get("canaryTrafficPercent") for step in (1, 2, 3, 4, 0)]
    uris = [service_of(rollout, step)["predictor"]["model"]["storageUri"] for step in (1, 4, 0)]
    assert shares == [5, 25, 50, None, None]
    assert uris == ["s3://bucket/int4-g128", "s3://bucket/int4-g128", "s3://bucket/bf16"]


def test_llm_services_of_one_group_share_by_weight(tmp_path: Path) -> None:
    rollout = ready(decided(tmp_path), "int4-g64", share=30)
    for step, weights in ((1, [70, 30]), (2, [0, 100]), (0, [100, 0])):
        routes = [service["spec"]["router"]["route"] for service in rollout.objects(LLM_INFERENCE_SERVICE, step)]
        assert [(route["group"], route["weight"]) for route in routes] == [("tutor", weight) for weight in weights]
    names = [service["metadata"]["name"] for service in rollout.objects(LLM_INFERENCE_SERVICE, 1)]
    assert names == ["tutor-bf16-0a0a0a0a", "tutor-int4-g64-3a3a3a3a"]


def test_the_options_of_variant_and_hardware_reach_both_kinds_of_objects(tmp_path: Path) -> None:
    decision = decided(tmp_path)
    fp8 = decision.weights[1].model_copy(update={"kv_cache_dtype": "fp8"})
    decision = decision.model_copy(update={"weights": (decision.weights[0], fp8, *decision.weights[2:])})
    settings = replace(SETTINGS, gpus=2, options=("--max-model-len", "4096"), image="registry/vllm@sha256:1")
    destination = Destination(service="tutor")
    rollout = prepared(decision, plan_rollout(decision, "int8", destination), destination, settings)
    model = service_of(rollout, 1)["predictor"]["model"]
    wanted = ["--kv-cache-dtype", "fp8", "--tensor-parallel-size", "2", "--max-model-len", "4096"]
    assert model["args"][3:] == wanted
    assert (model["image"], model["resources"]["limits"]["nvidia.com/gpu"]) == ("registry/vllm@sha256:1", "2")
    (container,) = rollout.objects(LLM_INFERENCE_SERVICE, 1)[1]["spec"]["template"]["containers"]
    assert container["env"] == [{"name": "VLLM_ADDITIONAL_ARGS", "value": " ".join(wanted)}]


def test_a_variant_is_served_with_the_parser_of_tool_calls_that_it_was_judged_with(tmp_path: Path) -> None:
    decision = decided(tmp_path)
    plan = EvaluationPlan(variants=("bf16", "int8"), store="s", results="r", tool_parser="hermes")
    predictor = service_of(ready(decision.model_copy(update={"plan": plan}), "int8"), 1)["predictor"]
    assert predictor["model"]["args"][-2:] == ["--tool-call-parser", "hermes"]
    assert "--tool-call-parser" not in service_of(ready(decision, "int8"), 1)["predictor"]["model"].get("args", [])


def test_releases_that_share_weights_have_names_of_their_own() -> None:
    releases = [Release("mxfp4-native", "a" * 64, "u", options, ()) for options in ((), ("--kv-cache-dtype", "fp8"))]
    assert len({release.id for release in releases}) == 2
    assert {len(release.id) for release in releases} == {21}


def test_an_ab_test_has_the_size_that_its_power_needs(tmp_path: Path) -> None:
    decision = decided(tmp_path)
    verdict = decision.verdicts[3]
    test = live_test(decision, verdict, 50)
    assert test is not None
    assert test.split is not None
    before, gap = 0.5, (0.05 - 0.039) * 0.5
    after = before - 0.039 * 0.5
    quantiles = float(ndtri(0.95) + ndtri(0.8))
    expected = quantiles**2 * 2 * (before * (1 - before) + after * (1 - after)) / gap**2
    assert math.isclose(test.split, expected, rel_tol=0.005)
    assert test.mirrored is None, "without per-item answers nothing says how often the two differ"
    flowed = decision.model_copy(
        update={
            "verdicts": (with_flow(decision.verdicts[0]), *decision.verdicts[1:]),
            "scores": tuple(
                row.model_copy(update={"tasks": (*row.tasks, row.tasks[0].model_copy(update={"task": "flows"}))})
                for row in decision.scores
            ),
        }
    )
    assert live_test(flowed, verdict, 50) == test, "flows are no part of the average"
    uneven = live_test(decision, verdict, 10)
    assert uneven is not None
    assert uneven.split is not None
    assert uneven.split > 2 * test.split
    perfect = decision.verdicts[0].model_copy(update={"scores": {"piqa": 1.0}})
    certain = live_test(
        decision.model_copy(update={"verdicts": (perfect,)}), verdict.model_copy(update={"average_drop": 0.0}), 50
    )
    assert certain is not None
    assert certain.split == 100
    lost = verdict.model_copy(update={"average_drop": 0.05})
    hopeless = live_test(decision, lost, 50)
    assert hopeless is not None
    assert hopeless.split is None, "no number of requests shows a loss under 5 % if it is 5 %"


def test_a_step_waits_for_the_requests_that_bound_the_share_of_errors() -> None:
    assert requests_without_error(0.05) == 299
    assert 0.99**299 <= 0.05 < 0.99**298


def test_the_alerts_compare_the_two_releases(tmp_path: Path) -> None:
    rollout = ready(decided(tmp_path), "int4-g128", namespace="prod")
    rules = prometheus_rule(rollout.traffic, 0.05)["spec"]["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == [f"Rollout_{metric.name}" for metric in METRICS]
    cut = next(rule["expr"] for rule in rules if rule["alert"] == "Rollout_cut")
    assert 'pod=~"tutor-int4-g128-2a2a2a2a-.+",namespace="prod",finished_reason="length"' in cut
    assert cut.index("int4-g128-2a2a2a2a") < cut.index("> 1 * ") < cut.index("bf16-0a0a0a0a")
    knative = ready(decided(tmp_path), "int4-g128", mode=KNATIVE)
    assert 'model_name="int4-g128-2a2a2a2a"' in str(prometheus_rule(knative.traffic, 0.05))


@pytest.mark.slow
def test_kustomize_builds_every_folder(tmp_path: Path) -> None:
    rollout = ready(decided(tmp_path), "int4-g64", namespace="prod")
    for name, text in rollout.files().items():
        file = tmp_path / "files" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    kinds = {"inference-service": 1, "llm-inference-service": 2}
    for folder, count in kinds.items():
        objects = kustomized(tmp_path / "files" / folder / "1-split-50")
        assert [body["metadata"]["namespace"] for body in objects] == ["prod"] * count
        assert kustomized(tmp_path / "files" / folder / "rollback")
    assert kustomized(tmp_path / "files" / "metrics")[0]["kind"] == "PrometheusRule"


def test_a_run_leaves_the_rollout_of_each_variant(tmp_path: Path) -> None:
    results = in_results(decided(tmp_path), tmp_path / "run")
    report_step.report(
        str(results.decision.path), str(results.folder), str(tmp_path / "report.html"), str(tmp_path / "report.md")
    )
    steps = {path.parent.name for path in results.folder.glob("rollout/int4-g128/inference-service/*/service.yaml")}
    assert steps == {"1-canary-5", "2-canary-25", "3-canary-50", "4-all", "rollback"}
    assert results.rollout("int4-g64", "README.md").path.exists()
    assert not results.rollout("bf16", "README.md").path.exists()


def test_a_run_whose_weights_are_on_one_machine_leaves_the_reason(tmp_path: Path) -> None:
    decision = decided(tmp_path)
    local = tuple(row.model_copy(update={"uri": f"/store/{row.variant}"}) for row in decision.weights)
    files = written_plan(decision.model_copy(update={"weights": local}), "int8", SETTINGS)
    assert list(files) == ["README.md", "rollout.json"]
    assert "KServe cannot load /store/int8: the weights are on one machine" in files["README.md"]


def test_a_run_whose_baseline_failed_leaves_the_reason(tmp_path: Path) -> None:
    files = written_plan(placed(make_decision(tmp_path, failed="bf16")), "int4-g64", SETTINGS)
    assert "The verdict on int4-g64 is reject" in files["README.md"]
    files = written_plan(placed(make_decision(tmp_path, failed="bf16")), "int8", SETTINGS)
    assert "has no weights of bf16" in files["README.md"]


@pytest.mark.parametrize("service", ["Tutor", "1tutor", "tutor-", "t" * (LONGEST_SERVICE + 1)])
def test_a_name_that_kserve_refuses_is_refused_at_once(tmp_path: Path, service: str) -> None:
    in_results(decided(tmp_path), tmp_path)
    done = quantgate("rollout", str(tmp_path), "int8", "--service", service)
    assert done.returncode == 2
    assert "cannot be a service's name" in done.stderr


def rolled(folder: Path, *arguments: str) -> Done:
    return quantgate("rollout", str(folder), *arguments, "--no-check-weights")


def test_without_a_variant_the_best_one_is_rolled_out(tmp_path: Path) -> None:
    in_results(decided(tmp_path), tmp_path)
    done = rolled(tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("# Rollout of int8 as model-general-chat")
    assert not (tmp_path / "inference-service").exists()


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("reject", 1), ("inconclusive", 3), ("not_comparable", 4), ("failed", 4), ("skipped", 4)],
)
def test_a_verdict_that_allows_nothing_writes_nothing(tmp_path: Path, verdict: str, status: int) -> None:
    in_results(decided(tmp_path, int8=verdict), tmp_path)
    done = rolled(tmp_path, "int8", "-o", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == f"quantgate: Nothing to roll out. The verdict on int8 is {verdict}: int8 is as it is.\n"
    assert not (tmp_path / "out").exists()


def test_a_forced_rollout_is_a_canary_that_names_its_reason(tmp_path: Path) -> None:
    in_results(decided(tmp_path, int8="reject"), tmp_path)
    out = tmp_path / "out"
    assert rolled(tmp_path, "int8", "-o", str(out), "--force", "No GPU is left.").returncode == 0
    service = yaml.safe_load((out / "inference-service/1-canary-5/service.yaml").read_text())
    facts = service["spec"]["canary"][0]["predictor"]["annotations"]
    assert (facts["quantgate/verdict"], facts["quantgate/forced"]) == ("reject", "No GPU is left.")


@pytest.mark.fault(
    "verdicts",
    "somebody edits the verdict, or a file of records, in a run's folder before a rollout",
    "`rollout` refuses and names what differs",
)
def test_only_the_decision_that_the_gate_wrote_is_rolled_out(tmp_path: Path) -> None:
    results = in_results(decided(tmp_path, int8="reject"), tmp_path)
    honest = results.decision.path.read_text()
    results.decision.path.write_text(honest.replace('"reject"', '"ship"'))
    done = rolled(tmp_path, "int8")
    assert done.returncode == 2
    assert "the verdicts or the scores are not those that the gate wrote" in done.stderr
    results.decision.path.write_text(honest)
    (tmp_path / "int8" / "records.parquet").write_text("other rows")
    done = rolled(tmp_path, "int8")
    assert done.returncode == 2
    assert "the records of int8 have other bytes than those that were judged" in done.stderr


def test_records_are_read_from_a_folder_that_was_moved(tmp_path: Path) -> None:
    results = in_results(decided(tmp_path / "run"), tmp_path / "run")
    records = results.records("int8", FULL).path
    records.parent.mkdir(parents=True)
    (tmp_path / "run" / "int8" / "records.parquet").rename(records)
    assert "int8," not in rolled(tmp_path / "run", "int8").stderr
    records.unlink()
    assert "Not compared, because they cannot be read from here: the records of int8," in (
        rolled(tmp_path / "run", "int8").stderr
    )


@pytest.mark.fault(
    "weights",
    "the stored weights of a variant are changed before a rollout",
    "`rollout` reads them, finds another digest, and refuses",
)
def test_only_the_weights_that_were_judged_become_an_image(tmp_path: Path) -> None:
    decision = decided(tmp_path)
    weights = tuple(stored(tmp_path, row) for row in decision.weights)
    results = in_results(digested(decision.model_copy(update={"weights": weights})), tmp_path / "run")
    run, out, image = str(results.folder), tmp_path / "out", "oci://registry.example.com/tutor:int8"
    refused = quantgate("rollout", run, "int8")
    assert refused.returncode == 2
    assert "the weights are on one machine" in refused.stderr
    addresses = ("--storage-uri", image, "--replaced-uri", "s3://bucket/bf16")
    assert quantgate("rollout", run, "int8", *addresses, "-o", str(out)).returncode == 0
    service = yaml.safe_load((out / "inference-service/1-all/service.yaml").read_text())
    assert service["spec"]["predictor"]["model"]["storageUri"] == image
    assert "podman build --tag registry.example.com/tutor:int8 ." in (out / "Containerfile").read_text()
    check = ["sha256sum", "--check", "--quiet", str(out / "SHA256SUMS")]
    assert subprocess.run(check, cwd=weights[1].uri, check=False).returncode == 0, "as the build checks them"
    (Path(weights[1].uri) / "model.safetensors").write_bytes(b"other")
    assert quantgate("rollout", run, "int8", *addresses).returncode == 2


@pytest.mark.slow
@pytest.mark.fault(
    "verdicts",
    "somebody edits a verdict in a run's folder and computes all digests anew",
    "`rollout --tracking-uri` compares them with MLflow's record, and refuses",
)
def test_a_recorded_run_is_registered_and_compared_with_mlflows_record(tmp_path: Path) -> None:
    decision, uri = decided(tmp_path), local_tracking_uri(tmp_path / "mlflow")
    results = in_results(decision, tmp_path)
    FACTS.write(results.facts.path)
    spooled_run(decision, uri, "MLflow was down.").write(results.tracked.path)
    registry = ModelRegistry()
    with registry_running(registry) as url:
        done = quantgate("track", str(tmp_path), "--tracking-uri", uri, "--register-in", url)
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in registry.of_kind("model_versions")][:2] == ["bf16-0a0a0a0a0a0a", "int8-1a1a1a1a1a1a"]
    assert "int8-1a1a1a1a1a1a" in done.stdout
    assert rolled(tmp_path, "int8", "--tracking-uri", uri).returncode == 0
    in_results(decided(tmp_path, int4_g64="ship"), tmp_path)
    assert rolled(tmp_path, "int4-g64").returncode == 0, "the digests agree"
    forged = rolled(tmp_path, "int4-g64", "--tracking-uri", uri)
    assert forged.returncode == 2
    assert "has another decision: judge it again" in forged.stderr


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster without objects, which the kubeconfig names."""
    state, kubeconfig = Cluster(), tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    with running(state, kubeconfig):
        yield state


def test_steps_are_applied_and_taken_back(tmp_path: Path, cluster: Cluster) -> None:
    in_results(decided(tmp_path), tmp_path)
    apply = ("int4-g128", "--apply", "--service", "tutor", "--namespace", "quantgate")
    done = rolled(tmp_path, *apply)
    assert done.stdout == (
        "inferenceservices.serving.kserve.io/tutor created in quantgate\n"
        "int4-g128 gets 5 %. Before step 2: 299 requests to the variant, and no alert.\n"
    )
    assert rolled(tmp_path, *apply, "--step", "2").returncode == 0
    assert cluster.all("inferenceservices")[0]["spec"]["canary"][0]["trafficPercent"] == 25
    assert rolled(tmp_path, *apply, "--step", "4").returncode == 0
    (service,) = cluster.all("inferenceservices")
    assert (service["spec"]["predictor"]["name"], "canary" in service["spec"]) == ("int4-g128-2a2a2a2a", False)
    assert rolled(tmp_path, *apply, "--rollback").returncode == 0
    (service,) = cluster.all("inferenceservices")
    assert service["spec"]["predictor"]["name"] == "bf16-0a0a0a0a"
    assert (
        rolled(tmp_path, *apply, "--step", "5").stderr == "quantgate: The rollout of int4-g128 has the steps 1 to 4.\n"
    )


def test_llm_services_are_applied_too(tmp_path: Path, cluster: Cluster) -> None:
    in_results(decided(tmp_path), tmp_path)
    apply = ("int8", "--apply", "--kind", "llm-inference-service", "--namespace", "quantgate")
    assert rolled(tmp_path, *apply).returncode == 0
    assert rolled(tmp_path, *apply, "--rollback").returncode == 0
    weights = [service["spec"]["router"]["route"]["weight"] for service in cluster.all("llminferenceservices")]
    assert weights == [100, 0]


@pytest.mark.fault(
    "machine",
    "a cluster's KServe is too old for spec.canary and drops it without a word",
    "`rollout --apply` says that all traffic stayed where it was",
)
def test_a_kserve_that_drops_the_canary_is_noticed(tmp_path: Path, cluster: Cluster) -> None:
    in_results(decided(tmp_path), tmp_path)
    cluster.pruned = {"canary"}
    done = rolled(tmp_path, "int4-g128", "--apply", "--service", "tutor", "--namespace", "quantgate")
    assert done.returncode == 2
    assert "has no spec.canary, so all traffic of tutor stays where it was" in done.stderr
