"""The Job that creates the recurring run in Kubeflow Pipelines."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from tests.support.kustomized import of_kind
from tests.support.network_policies import connects, pod


@pytest.mark.parametrize("overlay", ["kubeflow", "openshift-ai"])
def test_the_recurring_run_is_scheduled_with_existing_options_and_its_jobs_images(overlay: str) -> None:
    from pipelines.cli.app import app

    spec = of_kind(overlay, "Job")["quantgate-recurring-run"]["spec"]["template"]["spec"]
    (compiling,), (scheduling,) = spec["initContainers"], spec["containers"]
    for container in (compiling, scheduling):
        command, *options = container["args"]
        help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        for option in options:
            assert re.search(rf"{option.partition('=')[0]}\b", help_text), f"{command} {option}"
    images = {variable["name"]: variable["value"] for variable in compiling["env"]}
    assert images["IMAGE"] == compiling["image"] == scheduling["image"]
    assert images["QUANTIZE_IMAGE"] == scheduling["image"].replace("/quantgate:", "/quantgate-quantize:")
    place = next(mount for mount in scheduling["volumeMounts"] if mount["name"] == "kubeflow-token")["mountPath"]
    from kfp.client import KF_PIPELINES_SA_TOKEN_PATH

    assert Path(KF_PIPELINES_SA_TOKEN_PATH).parent == Path(place)
    (token,) = (volume for volume in spec["volumes"] if volume["name"] == "kubeflow-token")
    audience = token["projected"]["sources"][0]["serviceAccountToken"].get("audience")
    assert audience == ("pipelines.kubeflow.org" if overlay == "kubeflow" else None)


def test_on_openshift_the_recurring_runs_token_goes_only_to_a_server_with_a_known_certificate(
    tmp_path: Path,
) -> None:
    spec = of_kind("openshift-ai", "Job")["quantgate-recurring-run"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    options = dict(argument.partition("=")[::2] for argument in container["args"])
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "kubeflow-token")
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "kubeflow-token")
    token, authority = volume["projected"]["sources"]
    assert options["--ca"] == f"{mount['mountPath']}/{authority['configMap']['items'][0]['path']}"
    host = urlsplit(options["--host"])
    assert (host.scheme, host.hostname, host.port) == ("https", "ds-pipeline-dspa.quantgate.svc", 8443)
    policies = list(of_kind("openshift-ai", "NetworkPolicy").values())
    scheduler = pod({"app.kubernetes.io/name": "quantgate-scheduler"})
    assert connects(policies, scheduler, pod({"component": "data-science-pipelines"}), 8443)
    file = f"{mount['mountPath']}/{token['serviceAccountToken']['path']}"
    (tmp_path / "token").write_text("t0ken\n")
    program = tmp_path / "quantgate"
    program.write_text('#!/bin/sh\necho "$QUANTGATE_KUBEFLOW_TOKEN" "$@"\n')
    program.chmod(0o755)
    command = [part.replace(file, str(tmp_path / "token")) for part in (*container["command"], *container["args"])]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == " ".join(["t0ken", *container["args"]]) + "\n"
