"""A run's variants in a Kubeflow Model Registry: the bodies, a second time, and what goes wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.kubeflow_registry import TOKEN, register_in
from quantgate.components.promote.registry import model_name
from quantgate.components.run.verdicts import Decision
from tests.support.decided import digested, make_decision
from tests.support.model_registry import ModelRegistry, registry_running
from tests.support.registered import placed
from tests.test_report import decision_by_evidence


@pytest.fixture
def registry() -> ModelRegistry:
    return ModelRegistry()


@pytest.fixture
def url(registry: ModelRegistry) -> Iterator[str]:
    with registry_running(registry) as address:
        yield address


def decided(folder: Path) -> Decision:
    """int4-g64 failed, so three variants have weights."""
    return digested(placed(make_decision(folder, failed="int4-g64")))


def test_each_variant_becomes_a_version_with_its_verdict_and_the_address_of_its_weights(
    tmp_path: Path, registry: ModelRegistry, url: str
) -> None:
    decision = decided(tmp_path)
    versions = register_in(url, decision, "s3://bucket/run")
    assert versions == ["bf16-digest of bf", "int8-digest of in", "int4-g128-digest of in"]
    (model,) = registry.of_kind("registered_models")
    assert (model["name"], model["description"]) == (
        model_name("hf:org/model", "general-chat"),
        "hf:org/model for general-chat",
    )
    int8 = registry.of_kind("model_versions")[1]
    assert (int8["registeredModelId"], int8["description"]) == (model["id"], "int8 is as it is.")
    properties = {
        name: value.get("string_value", value.get("double_value")) for name, value in int8["customProperties"].items()
    }
    assert decision.digests is not None
    assert properties["verdict"] == "ship"
    assert properties["digest"] == "digest of int8"
    assert properties["evidence_digest"] == decision.digests.combined
    assert properties["drop.hellaswag"] == pytest.approx(0.025)
    assert properties["run"] == "s3://bucket/run"
    artifacts = registry.of_kind("model_artifacts")
    assert [artifact["uri"] for artifact in artifacts] == [f"s3://bucket/{row.variant}" for row in decision.weights[:3]]
    assert [artifact["parent"] for artifact in artifacts] == [one["id"] for one in registry.of_kind("model_versions")]


def test_the_upper_bounds_of_the_limits_are_properties(registry: ModelRegistry, url: str) -> None:
    decision = decision_by_evidence()
    weights = tuple(row.model_copy(update={"digest": f"{row.variant}d"}) for row in decision.weights)
    register_in(url, decision.model_copy(update={"weights": weights}), "runs/demo")
    properties = registry.of_kind("model_versions")[1]["customProperties"]
    assert properties["at_most.average.drop"]["double_value"] == decision.verdicts[1].limits[0].upper


def test_a_second_time_updates_what_is_there(tmp_path: Path, registry: ModelRegistry, url: str) -> None:
    decision = decided(tmp_path)
    register_in(url, decision, "runs/demo")
    known = len(registry.entities)
    worse = decision.verdicts[1].model_copy(update={"verdict": "reject"})
    verdicts = (decision.verdicts[0], worse, *decision.verdicts[2:])
    register_in(f"{url}/", decision.model_copy(update={"verdicts": verdicts}), "runs/demo")
    assert len(registry.entities) == known
    assert registry.of_kind("model_versions")[1]["customProperties"]["verdict"]["string_value"] == "reject"


def test_an_entity_that_another_client_creates_meanwhile_is_updated(
    tmp_path: Path, registry: ModelRegistry, url: str
) -> None:
    registry.taken = True
    register_in(url, decided(tmp_path), "runs/demo")
    assert len(registry.of_kind("model_versions")) == 3
    assert sum(request.startswith("PATCH model_versions/") for request in registry.requests) == 3


def test_a_registry_with_accounts_wants_the_token(
    tmp_path: Path, registry: ModelRegistry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.token = "secret"
    with pytest.raises(PrerequisiteError, match=f"does not let this account in .* Set {TOKEN}"):
        register_in(url, decided(tmp_path), "runs/demo")
    monkeypatch.setenv(TOKEN, "secret")
    assert len(register_in(url, decided(tmp_path), "runs/demo")) == 3


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("registry:8080", "is not the address of a Model Registry"),
        ("http://127.0.0.1:9", "does not answer"),
        ("{url}/elsewhere", "There is no Model Registry API v1alpha3 at"),
    ],
)
def test_a_wrong_address_is_named(tmp_path: Path, url: str, address: str, message: str) -> None:
    with pytest.raises(PrerequisiteError, match=message):
        register_in(address.format(url=url), decided(tmp_path), "runs/demo")
