"""What starts runs on a cluster: the CronJob that looks for a new model, the listener, and a training pipeline."""

import base64
import json
import re
import shlex
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from kfp import compiler
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH

from quantgate.pipelines import cluster
from quantgate.pipelines.cli.app import app
from quantgate.pipelines.kubeflow.listen import HEALTH, SECRET
from tests.support.kustomized import LISTENS, MANIFESTS, ROOT, Object, of_kind
from tests.support.mlflow_server import WEBHOOKS
from tests.support.network_policies import Peer, connects, pod
from tests.support.on_kubeflow import on_a_short_stack

OVERLAYS = ("kubeflow", "openshift-ai")
"""Those with the component recurring."""
LOOK, LISTENER, MLFLOW = (
    pod({"app.kubernetes.io/name": name}) for name in ("quantgate-look", "quantgate-listener", "mlflow")
)
PIPELINES = {
    "kubeflow": (pod({"app": "ml-pipeline"}, "kubeflow"), 8888),
    "openshift-ai": (pod({"component": "data-science-pipelines"}), 8443),
}


def look_pod(overlay: str) -> Object:
    """The specification of the pod of a look."""
    spec: Object = of_kind(overlay, "CronJob")["quantgate-look"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def listener_pod(overlay: str) -> Object:
    """The specification of the listener's pod."""
    spec: Object = of_kind(f"{overlay}{LISTENS}", "Deployment")["quantgate-listener"]["spec"]["template"]["spec"]
    return spec


def accepted(arguments: list[str]) -> dict[str, object]:
    """The command's parameters, when the command line accepts these arguments."""
    command, *rest = arguments
    group = typer.main.get_command(app)
    context = group.commands[command].make_context(command, rest)  # type: ignore[attr-defined]  # typer's group has them
    return dict(context.params)


def check_pod(spec: Object, overlay: str) -> dict[str, object]:
    """The options of the pod's command, when its images, its token and its certificates fit."""
    (compiling,), (starting,) = spec["initContainers"], spec["containers"]
    images = {variable["name"]: variable["value"] for variable in compiling["env"]}
    assert images["IMAGE"] == compiling["image"] == starting["image"]
    assert images["QUANTIZE_IMAGE"] == starting["image"].replace("/quantgate:", "/quantgate-quantize:")
    options = accepted(starting["args"])
    assert str(accepted(compiling["args"])["out"]) == str(options["pipeline"])
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("quantgate-submit", False)
    mounts = {mount["name"]: mount["mountPath"] for mount in starting["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert mounts["mlflow-certificates"] == cluster.MLFLOW_FOLDER
    assert volumes["mlflow-certificates"]["secret"] == {"secretName": cluster.MLFLOW_FILES, "optional": True}
    token, *others = volumes["kubeflow-token"]["projected"]["sources"]
    place = f"{mounts['kubeflow-token']}/{token['serviceAccountToken']['path']}"
    variables = {variable["name"]: variable.get("value") for variable in starting.get("env", ())}
    if overlay == "kubeflow":
        assert (options["in_cluster"], options["namespace"], others) == (True, "quantgate", [])
        assert token["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
        assert place == KF_PIPELINES_SA_TOKEN_PATH
    else:
        (authority,) = others
        assert options["ca"] == f"{mounts['kubeflow-token']}/{authority['configMap']['items'][0]['path']}"
        assert (options["in_cluster"], "audience" in token["serviceAccountToken"]) == (False, False)
        host = urlsplit(str(options["host"]))
        assert (host.scheme, host.hostname, host.port) == ("https", "ds-pipeline-dspa.quantgate.svc", 8443)
        assert variables[KF_PIPELINES_SA_TOKEN_ENV] == place
    return options


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_look_runs_alone_and_its_pod_fits(overlay: str) -> None:
    spec = of_kind(overlay, "CronJob")["quantgate-look"]["spec"]
    assert (spec["concurrencyPolicy"], spec["schedule"]) == ("Forbid", "0 * * * *")
    options = check_pod(look_pod(overlay), overlay)
    assert (options["model"], options["skip_judged"]) == ("hf:org/name", True)
    assert not of_kind(overlay, "Job").keys() - {"mlflow-account", "quantgate-cache"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_listeners_pod_fits(overlay: str) -> None:
    spec = listener_pod(overlay)
    options = check_pod(spec, overlay)
    assert (options["bind"], options["model"]) == ("0.0.0.0", "models:/NAME")
    assert options["name"] == check_pod(look_pod(overlay), overlay)["name"], "neither repeats what the other started"
    (container,) = spec["containers"]
    (port,) = container["ports"]
    (service_port,) = of_kind(f"{overlay}{LISTENS}", "Service")["quantgate-listener"]["spec"]["ports"]
    assert options["port"] == port["containerPort"] == service_port["port"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": HEALTH, "port": port["name"]}
    assert [variable["name"] for variable in container["env"] if "valueFrom" in variable] == [SECRET]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_the_listener_mlflow_may_send_webhooks_to_it(overlay: str) -> None:
    (container,) = of_kind(f"{overlay}{LISTENS}", "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert {name: variables.get(name) for name in WEBHOOKS if "CACHE" not in name} == {
        name: value for name, value in WEBHOOKS.items() if "CACHE" not in name
    }, "tests/test_listen.py shows that a real MLflow sends with these"
    keys = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]
        for variable in container["env"]
        if "valueFrom" in variable
    }
    reference = keys["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"]
    example = (MANIFESTS / "secrets" / f"{reference['name']}.env.example").read_text(encoding="utf-8")
    assert f"\n{reference['key']}=" in example
    without = of_kind(overlay, "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"][0]
    assert "WEBHOOK" not in str(without), "only with the component"


def test_the_documented_command_makes_a_key_that_mlflow_can_use() -> None:
    from cryptography.fernet import Fernet

    text = (MANIFESTS / "secrets" / "mlflow-server.env.example").read_text(encoding="utf-8")
    command = re.search(r"webhooks' secrets: (.+)", text)
    assert command
    key = subprocess.run(["sh", "-c", command[1]], capture_output=True, check=True).stdout.strip()
    assert len(base64.urlsafe_b64decode(key)) == 32
    Fernet(key)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        pytest.param(LOOK, Peer(address="93.184.216.34"), 443, True, id="a look reaches the hub"),
        pytest.param(
            LOOK, Peer(address="169.254.169.254"), 443, False, id="a look does not get the node's credentials"
        ),
        pytest.param(LOOK, Peer(address="10.0.0.1"), 6443, False, id="a look does not reach the API server's port"),
        pytest.param(LOOK, MLFLOW, 5000, True, id="a look asks MLflow"),
        pytest.param(LISTENER, MLFLOW, 5000, True, id="the listener asks MLflow"),
        pytest.param(MLFLOW, LISTENER, 8080, True, id="MLflow sends to the listener"),
        pytest.param(MLFLOW, LOOK, 8080, False, id="MLflow sends to nothing else"),
        pytest.param(LOOK, LISTENER, 8080, False, id="nothing else sends to the listener"),
        pytest.param(pod({}, "other"), LISTENER, 8080, False, id="nothing from another namespace"),
    ],
)
def test_what_starts_runs_reaches_its_sources_and_nothing_else(
    overlay: str, source: Peer, target: Peer, port: int, allowed: bool
) -> None:
    policies = list(of_kind(f"{overlay}{LISTENS}", "NetworkPolicy").values())
    assert connects(policies, source, target, port) is allowed
    for starting in (LOOK, LISTENER):
        assert connects(policies, starting, *PIPELINES[overlay])


def test_on_kubeflow_what_starts_runs_reaches_the_object_store() -> None:
    policies = list(of_kind("kubeflow", "NetworkPolicy").values())
    for port in (9000, 8333):
        assert connects(policies, LOOK, pod({"app": "seaweedfs"}, "kubeflow"), port)


def with_values(container: Object) -> Object:
    """The container with its inputs' values, as kfp's launcher puts them in."""
    text = json.dumps(container)
    for name, value in (("models", "s3://mlpipeline/models"), ("run", "run-7")):
        text = text.replace(f"{{{{$.inputs.parameters['{name}']}}}}", value)
    filled: Object = json.loads(text)
    return filled


def test_the_training_pipeline_compiles_and_its_last_step_starts_a_run(tmp_path: Path) -> None:
    source = (MANIFESTS / "examples" / "training.py").read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "training"}
    on_a_short_stack(lambda: exec(compile(source, "training.py", "exec"), names))
    file = tmp_path / "training.yaml"
    on_a_short_stack(lambda: compiler.Compiler().compile(names["train_and_judge"], str(file)))
    spec, _ = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert spec["root"]["dag"]["tasks"]["submit"]["dependentTasks"] == ["train"]
    trained, container = (
        with_values(spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]) for name in ("train", "submit")
    )
    program = tmp_path / "quantgate"
    program.write_text('#!/bin/sh\nprintf "%s " "$@" && echo\n')
    program.chmod(0o755)
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    compiled, submitted = (accepted(shlex.split(line)) for line in done.stdout.splitlines())
    images = of_kind("kubeflow", "CronJob")["quantgate-look"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    steps = {variable["name"]: variable["value"] for variable in images["initContainers"][0]["env"]}
    assert (compiled["image"], compiled["quantize_image"]) == (steps["IMAGE"], steps["QUANTIZE_IMAGE"])
    assert container["image"] == steps["IMAGE"]
    assert (submitted["pipeline"], submitted["detach"], submitted["in_cluster"]) == (compiled["out"], True, True)
    assert submitted["model"] == "s3://mlpipeline/models/run-7"
    assert trained["args"] == [f"--upload-to={submitted['model']}"]


def test_the_pod_default_gives_a_training_pipelines_last_step_its_token() -> None:
    examples = MANIFESTS / "examples"
    spec = yaml.safe_load((examples / "pod-default.yaml").read_text(encoding="utf-8"))["spec"]
    ((label, value),) = spec["selector"]["matchLabels"].items()
    assert f'add_pod_label(submitted, "{label}", "{value}")' in (examples / "training.py").read_text(encoding="utf-8")
    (mount,), (volume,), (variable,) = spec["volumeMounts"], spec["volumes"], spec["env"]
    token = volume["projected"]["sources"][0]["serviceAccountToken"]
    assert (mount["name"], token["audience"]) == (volume["name"], "pipelines.kubeflow.org")
    place = f"{mount['mountPath']}/{token['path']}"
    assert place == KF_PIPELINES_SA_TOKEN_PATH
    assert variable == {"name": KF_PIPELINES_SA_TOKEN_ENV, "value": place}


def test_the_role_of_a_training_pipeline_is_documented_under_its_name() -> None:
    assert "quantgate-submit" in of_kind("kubeflow", "Role")
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert "--role quantgate-submit" in page
    assert "manifests/examples/training.py" in page
