"""The environment variables that configure serving on a cluster, and how a pod without KServe fetches its weights."""

from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import digest_of
from quantgate.components.servers import fetch_model
from quantgate.components.servers.cluster_settings import Toleration, from_environment
from quantgate.components.storage.location import open_store
from quantgate.components.storage.store import FolderStore
from tests.support.smallest_model import smallest_model

NOWHERE = Path("/nowhere/namespace")


def test_without_any_variable_serving_is_local() -> None:
    settings = from_environment({}, NOWHERE)
    assert (settings.kind, settings.namespace, settings.gpus, settings.tensor_parallel_size) == (
        "local",
        "quantgate",
        1,
        1,
    )


def test_each_variable_is_parsed_to_the_type_of_its_field(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("team-a\n")
    settings = from_environment(
        {
            "QUANTGATE_SERVING": "kserve",
            "QUANTGATE_SERVING_GPUS": "4",
            "QUANTGATE_SERVING_NODE_SELECTOR": "nvidia.com/gpu.product=H100, disk=ssd",
            "QUANTGATE_SERVING_TOLERATIONS": "nvidia.com/gpu:NoSchedule,team=a:NoExecute",
            "QUANTGATE_SERVING_OPTIONS": "--dtype float32 --chat-template 'a b'",
            "QUANTGATE_SERVING_ENV": "VLLM_CPU_KVCACHE_SPACE=4",
            "QUANTGATE_SERVING_IMAGE": "",
        },
        tmp_path / "namespace",
    )
    assert (settings.kind, settings.namespace, settings.image) == ("kserve", "team-a", "")
    assert (settings.gpus, settings.tensor_parallel_size) == (4, 4)
    assert settings.node_selector == (("nvidia.com/gpu.product", "H100"), ("disk", "ssd"))
    assert settings.tolerations == (
        Toleration("nvidia.com/gpu", "", "NoSchedule"),
        Toleration("team", "a", "NoExecute"),
    )
    assert settings.options == ("--dtype", "float32", "--chat-template", "a b")
    assert settings.env == (("VLLM_CPU_KVCACHE_SPACE", "4"),)


@pytest.mark.parametrize("kind", ["kserve", "deployment"])
def test_pythonpath_is_refused_before_kserves_webhook_does(kind: str) -> None:
    with pytest.raises(PrerequisiteError, match=r"sets PYTHONPATH, which KServe's webhook refuses"):
        from_environment({"QUANTGATE_SERVING": kind, "QUANTGATE_SERVING_ENV": "PYTHONPATH=/opt"}, NOWHERE)


def test_tolerations_can_be_empty_and_fewer_gpus_can_be_set() -> None:
    settings = from_environment({"QUANTGATE_SERVING_TOLERATIONS": "none", "QUANTGATE_SERVING_GPUS": "0"}, NOWHERE)
    assert (settings.tolerations, settings.tensor_parallel_size) == ((), 1)


def test_the_steps_own_image_fetches_the_weights_by_default() -> None:
    own = {"QUANTGATE_IMAGE": "registry.example.com/quantgate:0.1.0"}
    assert from_environment(own, NOWHERE).weights_image == "registry.example.com/quantgate:0.1.0"
    other = own | {"QUANTGATE_SERVING_WEIGHTS_IMAGE": "mirror.example.com/quantgate:0.1.0"}
    assert from_environment(other, NOWHERE).weights_image == "mirror.example.com/quantgate:0.1.0"


def test_there_is_no_priority_class_by_default() -> None:
    assert from_environment({"QUANTGATE_SERVING_PRIORITY_CLASS": ""}, NOWHERE).priority_class == ""
    named = from_environment({"QUANTGATE_SERVING_PRIORITY_CLASS": "quantgate-runs"}, NOWHERE)
    assert named.priority_class == "quantgate-runs"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("", "knative", "QUANTGATE_SERVING is 'knative'. Valid: local, kserve, deployment"),
        ("_GPUS", "two", "QUANTGATE_SERVING_GPUS is 'two': give a whole number"),
        ("_GPUS", "-1", "give a whole number"),
        ("_LEASE_S", "0", "QUANTGATE_SERVING_LEASE_S is 0: a lease lasts at least a second"),
        ("_NODE_SELECTOR", "gpu", "write it like name=value,other=value"),
        ("_TOLERATIONS", "team=a", "effects: NoSchedule, PreferNoSchedule, NoExecute"),
        ("_OPTIONS", "--chat-template 'a", "No closing quotation"),
        ("_ADDRESS", "http://{pod}", "Write it like http://{service}.{namespace}.svc:{port}"),
    ],
)
def test_an_invalid_value_is_reported_with_the_valid_ones(name: str, value: str, message: str) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        from_environment({f"QUANTGATE_SERVING{name}": value}, NOWHERE)
    assert message in str(caught.value)


def test_the_weights_are_checked_and_served_at_the_same_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = digest_of(smallest_model(tmp_path / "made"))
    uri = FolderStore(tmp_path / "store").put_folder(tmp_path / "made", "weights/int8", digest)
    target = tmp_path / "mounted" / "model"
    target.parent.mkdir()
    for _ in range(2):  # a pod's init container may run again
        assert fetch_model.main([uri, str(target), digest]) == 0
        assert (target / "tokenizer.json").read_text() == "{}"
    assert fetch_model.main([str(tmp_path / "none"), str(target), digest]) == 2
    assert "none" in capsys.readouterr().err
    assert fetch_model.main([uri, str(target), "0" * 64]) == 2
    assert f"have the digest {digest}, and the run has {'0' * 64}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_link_to_the_weights_may_have_the_buckets_name(tmp_path: Path, s3_location: str) -> None:
    digest = digest_of(smallest_model(tmp_path / "made"))
    uri = open_store(s3_location).put_folder(tmp_path / "made", "weights/int8", digest)
    target = tmp_path / "mounted" / uri.split("/")[2]
    target.parent.mkdir()
    for _ in range(2):
        assert fetch_model.main([uri, str(target), digest]) == 0
        assert (target / "tokenizer.json").read_text() == "{}"


@pytest.mark.slow
def test_a_load_test_gets_the_tokenizer_without_the_weights(tmp_path: Path, s3_location: str) -> None:
    digest = digest_of(smallest_model(tmp_path / "made"))
    uri = open_store(s3_location).put_folder(tmp_path / "made", "weights/int8", digest)
    target = tmp_path / "mounted" / "model"
    target.parent.mkdir()
    assert fetch_model.main([uri, str(target), digest, "--without-weights"]) == 0
    assert (target / "tokenizer.json").read_text() == "{}"
    assert not (target / "model.safetensors").exists()
