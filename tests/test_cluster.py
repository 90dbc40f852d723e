"""The compiled pipeline's requirements of a cluster, step by step."""

import copy
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from google.protobuf import json_format  # type: ignore[import-untyped]
from kfp import components
from typer.testing import CliRunner, Result

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import use_case_names
from quantgate.components.resolve.run_settings import PLACES
from quantgate.pipelines.cli.cluster_commands import compile_pipeline
from quantgate.pipelines.cluster import STEPS, Cluster
from quantgate.pipelines.kubeflow.compile import checked
from tests.support.on_kubeflow import compiled, on_a_short_stack

DIGEST = f"@sha256:{'0' * 64}"
IN_THE_LOOP = {"quantize", "deploy", "evaluate-tiny", "evaluate-full", "flows", "execute", "undeploy"}
PRODUCTION = Cluster(
    image=f"registry.example/quantgate{DIGEST}",
    quantize_image=f"registry.example/quantgate-quantize{DIGEST}",
    parallelism=3,
    gpus=2,
    node_selector={"gpu": "h100"},
    pull_secret="registry",
)


def command(*options: str) -> Result:
    """The file that `quantgate compile` writes."""
    app = typer.Typer()
    app.command()(compile_pipeline)
    return on_a_short_stack(lambda: CliRunner().invoke(app, list(options)))


class Compiled:
    """The two documents of a compiled pipeline."""

    def __init__(self, cluster: Cluster, file: Path) -> None:
        self.file = compiled(file, cluster)
        self.pipeline, self.platform = yaml.safe_load_all(file.read_text())

    def container(self, step: str) -> dict[str, Any]:
        spec: dict[str, Any] = self.pipeline["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        return spec

    def pod(self, step: str) -> dict[str, Any]:
        executors = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        spec: dict[str, Any] = executors[f"exec-{step}"]
        return spec

    def environment(self, step: str) -> dict[str, str]:
        return {variable["name"]: variable["value"] for variable in self.container(step).get("env", [])}

    def references(self, step: str, kind: str) -> dict[str, bool]:
        """The names of the step's Secrets (or ConfigMaps), and whether each may be absent."""
        key = "secretName" if kind == "secretAsEnv" else "configMapName"
        return {reference[key]: reference.get("optional", False) for reference in self.pod(step).get(kind, [])}

    def tasks(self) -> dict[str, Any]:
        loop = self.pipeline["components"]["comp-for-loop-1"]["dag"]["tasks"]
        return {**self.pipeline["root"]["dag"]["tasks"], **loop}


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(PRODUCTION, tmp_path_factory.mktemp("compiled") / "pipeline.yaml")


def test_kfp_loads_the_fitted_pipeline_with_the_steps_of_ship(production: Compiled, tmp_path: Path) -> None:
    assert components.load_component_from_file(str(production.file)).name == "quantgate-ship"
    plain = compiled(tmp_path / "plain.yaml")
    bare = yaml.safe_load(plain.read_text())
    inputs = copy.deepcopy(production.pipeline["root"]["inputDefinitions"])
    del inputs["parameters"]["use_case"]["literals"]  # the SDK cannot write them
    assert inputs == bare["root"]["inputDefinitions"]
    assert set(production.pipeline["components"]) == set(bare["components"])
    graph = {name: task.get("dependentTasks") for name, task in bare["root"]["dag"]["tasks"].items()}
    assert graph == {n: t.get("dependentTasks") for n, t in production.pipeline["root"]["dag"]["tasks"].items()}


def test_every_step_has_a_row_of_needs_and_every_row_belongs_to_a_step(production: Compiled) -> None:
    assert set(STEPS) == set(production.tasks()) - {"for-loop-1"}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_resources_a_timeout_and_a_label_and_does_not_run_as_root(
    production: Compiled, step: str
) -> None:
    resources, pod = production.container(step)["resources"], production.pod(step)
    assert resources["resourceCpuRequest"] == STEPS[step].cpu
    assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"] == STEPS[step].memory
    assert int(pod["activeDeadlineSeconds"]) == STEPS[step].timeout_s > 0
    labels = {"quantgate.dev/step": step, "app.kubernetes.io/managed-by": "quantgate"}
    assert pod["podMetadata"]["labels"] == labels
    assert pod["securityContext"] == {"runAsNonRoot": True}
    assert pod["imagePullPolicy"] == "IfNotPresent"
    assert [secret["secretName"] for secret in pod["imagePullSecret"]] == ["registry"]


def test_only_quantize_gets_the_gpus_and_their_nodes(production: Compiled) -> None:
    resources = production.container("quantize")["resources"]
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert resources["accelerator"]["resourceCount"] == "2"
    assert production.pod("quantize")["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert production.pod("quantize")["nodeSelector"] == {"labels": {"gpu": "h100"}}
    assert production.container("quantize")["image"] == PRODUCTION.quantize_image
    for step in STEPS.keys() - {"quantize"}:
        assert "accelerator" not in production.container(step)["resources"]
        assert not {"tolerations", "nodeSelector"} & production.pod(step).keys()


def test_steps_that_read_or_write_weights_have_the_image_with_pytorch(production: Compiled) -> None:
    images = {step: production.container(step)["image"] for step in STEPS}
    assert images == {
        **dict.fromkeys(STEPS, PRODUCTION.image),
        **dict.fromkeys(("resolve", "quantize"), PRODUCTION.quantize_image),
    }


def test_several_gpus_come_with_shared_memory_and_resolve_knows_their_number(
    production: Compiled, tmp_path: Path
) -> None:
    (mount,) = production.pod("quantize")["emptyDirMounts"]
    assert mount == {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory"}
    assert production.environment("resolve")["QUANTGATE_QUANTIZE_GPUS"] == "2"
    single = Compiled(Cluster(), tmp_path / "single.yaml")
    assert "emptyDirMounts" not in single.pod("quantize")
    assert single.environment("resolve")["QUANTGATE_QUANTIZE_GPUS"] == "1"


def test_nothing_requests_gpus_on_a_cluster_without_gpus(tmp_path: Path) -> None:
    small = Compiled(Cluster(gpus=0, quantize_memory="6Gi", cache_claim=""), tmp_path / "small.yaml")
    assert "accelerator" not in small.container("quantize")["resources"]
    assert "tolerations" not in small.pod("quantize")
    assert small.container("quantize")["resources"]["resourceMemoryLimit"] == "6Gi"
    assert "imagePullSecret" not in small.pod("quantize")
    assert [mount["mountPath"] for mount in small.pod("quantize")["emptyDirMounts"]] == ["/cache"]
    assert "pvcMount" not in small.pod("quantize")


def test_a_step_references_only_the_secrets_that_it_needs(production: Compiled) -> None:
    named = {step: set(production.references(step, "secretAsEnv")) for step in STEPS}
    assert {step for step, secrets in named.items() if "quantgate-hub" in secrets} == {"resolve"}
    assert {step for step, secrets in named.items() if "quantgate-mlflow" in secrets} == {
        "resolve",
        "deploy",
        "track",
        "promote",
    }
    assert all("quantgate-s3" in secrets for secrets in named.values())
    assert {step for step, secrets in named.items() if "quantgate-servers" in secrets} == {
        "resolve",
        "deploy",
        "evaluate-tiny",
        "evaluate-full",
        "flows",
    }
    assert production.references("resolve", "secretAsEnv") == {
        "quantgate-s3": False,
        "quantgate-hub": True,
        "quantgate-mlflow": True,
        "quantgate-servers": False,
    }
    keys = {key["secretKey"]: key["envVar"] for key in production.pod("execute")["secretAsEnv"][0]["keyToEnv"]}
    assert keys == {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}


def test_steps_that_record_in_mlflow_get_the_optional_certificates(production: Compiled) -> None:
    recording = {step for step in STEPS if "quantgate-mlflow" in production.references(step, "secretAsEnv")}
    for step in STEPS:
        files = [
            (secret["secretName"], secret["mountPath"], secret["optional"])
            for secret in production.pod(step).get("secretAsVolume", [])
        ]
        wanted = [("quantgate-mlflow-certificates", "/etc/quantgate/mlflow", True)]
        assert files == (wanted if step in recording else [])
    maps = {config_map["configMapName"]: config_map for config_map in production.pod("track")["configMapAsEnv"]}
    optional_variables = {variable["envVar"] for variable in maps["quantgate-mlflow"]["keyToEnv"]}
    assert maps["quantgate-mlflow"]["optional"] is True
    assert optional_variables == {
        "QUANTGATE_TRACKING_URI",
        "QUANTGATE_TRACKING_HOSTS",
        "MLFLOW_TRACKING_SERVER_CERT_PATH",
        "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    }


def test_the_pipeline_contains_no_value_of_a_secret(production: Compiled) -> None:
    values = {value for step in STEPS for value in production.environment(step).values()}
    images = {PRODUCTION.image, PRODUCTION.quantize_image}
    assert values == {"job", "/cache", "/cache/huggingface", "kserve", str(PRODUCTION.gpus), *images}


def test_a_models_programs_run_in_a_job_with_the_project_image(production: Compiled) -> None:
    contained = {step for step in STEPS if production.environment(step).get("QUANTGATE_CONTAINMENT") == "job"}
    assert contained == {"execute", "resolve"}  # resolve refuses a suite of programs where they cannot be run
    for step in contained:
        assert production.environment(step)["QUANTGATE_SANDBOX_IMAGE"] == PRODUCTION.image
        assert production.references(step, "configMapAsEnv")["quantgate-sandbox"]
    assert set(production.references("execute", "secretAsEnv")) == {"quantgate-s3"}


def test_the_cache_is_mounted_where_models_and_rows_are_fetched(production: Compiled) -> None:
    mounted = {step for step in STEPS if "pvcMount" in production.pod(step)}
    assert mounted == {"resolve", "quantize", "deploy", "evaluate-tiny", "evaluate-full"}
    (claim,) = production.pod("quantize")["pvcMount"]
    assert (claim["constant"], claim["mountPath"]) == ("quantgate-cache", "/cache")
    assert all(production.environment(step)["QUANTGATE_CACHE"] == "/cache" for step in mounted)


def test_steps_that_create_objects_get_their_settings_and_the_run(production: Compiled) -> None:
    serving = {step for step in STEPS if production.environment(step).get("QUANTGATE_SERVING") == "kserve"}
    assert serving == {"resolve", "deploy", "evaluate-tiny", "evaluate-full", "flows", "undeploy"}
    for step in STEPS:
        fields = {
            variable["name"]: variable["fieldPath"] for variable in production.pod(step).get("fieldPathAsEnv", [])
        }
        run = {"QUANTGATE_RUN": "metadata.labels['workflows.argoproj.io/workflow']"}
        assert fields == (run if step in serving | {"execute", "resolve"} else {})
        settings = "quantgate-serving" in production.references(step, "configMapAsEnv")
        assert settings == (step in serving | {"report"}), "the report writes files that serve as this cluster does"


def test_the_first_step_gets_the_places_that_the_cluster_sets(production: Compiled) -> None:
    for step in STEPS:
        maps = production.pod(step).get("configMapAsEnv", [])
        keys = {key["envVar"] for config_map in maps for key in config_map["keyToEnv"]}
        assert ({"QUANTGATE_STORE", "QUANTGATE_RESULTS"} <= keys) == (step == "resolve")
    mlflow = {key for key in PLACES.values() if key in str(production.pod("resolve"))}
    assert mlflow == set(PLACES.values())


def test_only_steps_outside_the_loop_are_retried(production: Compiled) -> None:
    """Inside the loop kfp's backend ignores retries (kubeflow/pipelines #13897); the steps retry by themselves."""
    retries = {name: task.get("retryPolicy", {}).get("maxRetryCount", 0) for name, task in production.tasks().items()}
    assert {name for name, count in retries.items() if count} == {"resolve", "gate", "report", "track", "promote"}
    assert production.tasks()["resolve"]["retryPolicy"]["backoffDuration"] == "30s"
    assert not [step for step in IN_THE_LOOP if STEPS[step].retries]


def test_the_parallelism_sets_how_many_variants_run_at_once(production: Compiled, tmp_path: Path) -> None:
    assert production.pipeline["root"]["dag"]["tasks"]["for-loop-1"]["iteratorPolicy"]["parallelismLimit"] == 3
    usual = Compiled(Cluster(), tmp_path / "usual.yaml")
    assert usual.pipeline["root"]["dag"]["tasks"]["for-loop-1"]["iteratorPolicy"]["parallelismLimit"] == 1


def test_every_task_and_the_loop_have_a_display_name(production: Compiled) -> None:
    titles = {name: task["taskInfo"]["name"] for name, task in production.tasks().items()}
    assert titles == {name: step.title for name, step in STEPS.items()} | {"for-loop-1": "variants"}
    assert len(set(titles.values())) == len(titles)


def test_a_use_case_is_chosen_from_a_drop_down_list(production: Compiled) -> None:
    parameters = production.pipeline["root"]["inputDefinitions"]["parameters"]
    assert parameters["use_case"]["literals"] == list(use_case_names())
    assert parameters["use_case"]["defaultValue"] in parameters["use_case"]["literals"]
    assert [name for name, parameter in parameters.items() if "literals" in parameter] == ["use_case"]


def test_the_compiled_pipeline_is_a_message_of_kubeflows_own_protobuf(production: Compiled) -> None:
    message = checked(production.pipeline)
    literals = message.root.input_definitions.parameters["use_case"].literals
    assert [value.string_value for value in literals] == list(use_case_names())
    assert json_format.MessageToDict(message) == production.pipeline
    wrong = {**production.pipeline, "root": {**production.pipeline["root"], "inputs": {}}}
    with pytest.raises(json_format.ParseError, match="no field named .inputs."):
        checked(wrong)


@pytest.mark.slow
def test_fitting_one_pipeline_changes_neither_the_next_nor_the_local_one(tmp_path: Path) -> None:
    first = Compiled(Cluster(), tmp_path / "first.yaml").file.read_text()
    Compiled(PRODUCTION, tmp_path / "other.yaml")
    assert Compiled(Cluster(), tmp_path / "again.yaml").file.read_text() == first
    compiled(tmp_path / "local.yaml")
    assert len(list(yaml.safe_load_all((tmp_path / "local.yaml").read_text()))) == 1


def test_a_form_in_the_browser_explains_every_parameter_and_has_a_default(production: Compiled) -> None:
    for name, parameter in production.pipeline["root"]["inputDefinitions"]["parameters"].items():
        assert len(parameter.get("description", "")) > 20, name
        assert "defaultValue" in parameter, name


@pytest.mark.parametrize("image", ["registry.example/quantgate:latest", "registry.example:5000/quantgate", "quantgate"])
def test_an_image_without_a_fixed_version_is_refused(image: str) -> None:
    with pytest.raises(PrerequisiteError, match="can change between two runs"):
        Cluster(image=image)
    with pytest.raises(PrerequisiteError, match="--quantize-image"):
        Cluster(quantize_image=image)


@pytest.mark.parametrize("image", ["quantgate:0.1.0", f"quantgate{DIGEST}", f"registry.example:5000/q:1{DIGEST}"])
def test_an_image_with_a_digest_or_tag_is_accepted(image: str) -> None:
    assert Cluster(image=image).image == image


def test_the_command_writes_the_settings_of_its_options(tmp_path: Path) -> None:
    file = tmp_path / "new" / "pipeline.yaml"
    images = ("--image", "registry.example/quantgate:1.2.3", "--quantize-image", f"registry.example/q{DIGEST}")
    others = ("--parallelism", "2", "--gpus", "0", "--serving", "deployment", "--node", "disk=ssd", "--cache-claim", "")
    done = command("-o", str(file), *images, *others, "--deadline-hours", "72", "--keep-days", "7")
    assert (done.exit_code, done.stdout) == (0, f"Wrote {file}\n")
    spec, platform = yaml.safe_load_all(file.read_text())
    executors = spec["deploymentSpec"]["executors"]
    assert {name: executor["container"]["image"] for name, executor in executors.items()} == {
        **dict.fromkeys(executors, "registry.example/quantgate:1.2.3"),
        **dict.fromkeys(("exec-resolve", "exec-quantize"), f"registry.example/q{DIGEST}"),
    }
    assert spec["root"]["dag"]["tasks"]["for-loop-1"]["iteratorPolicy"]["parallelismLimit"] == 2
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert pods["exec-quantize"]["nodeSelector"] == {"labels": {"disk": "ssd"}}
    assert "pvcMount" not in pods["exec-quantize"]
    assert {"name": "QUANTGATE_SERVING", "value": "deployment"} in executors["exec-deploy"]["container"]["env"]
    limits = {"activeDeadlineSeconds": 72 * 3600, "resourceTtlOnCompletion": 7 * 24 * 3600}
    assert platform["platforms"]["kubernetes"]["pipelineConfig"] == limits


def test_without_a_deadline_the_pipeline_leaves_both_times_to_kubeflow(production: Compiled) -> None:
    assert "pipelineConfig" not in production.platform["platforms"]["kubernetes"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("-o", "pipeline.json"), "ends in .yaml"),
        (("--image", "quantgate:latest"), "can change between two runs"),
        (("--serving", "bentoml"), "Choose from: kserve, deployment"),
        (("--node", "h100"), "--node h100 is not a label"),
        (("--quantize-memory", "64GB"), "--quantize-memory 64GB is not an amount of memory"),
        (("--quantize-memory", "0"), "--quantize-memory 0 is not an amount of memory"),
        (("-o", "/dev/null/pipeline.yaml"), "Cannot write /dev/null/pipeline.yaml: "),
    ],
)
def test_the_command_reports_a_mistake_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*options)
    assert isinstance(done.exception, PrerequisiteError)
    assert what in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_parallelism_of_zero_is_refused_because_kubeflow_reads_it_as_unlimited() -> None:
    with pytest.raises(PrerequisiteError, match="--parallelism must be 1 or more"):
        Cluster(parallelism=0)
