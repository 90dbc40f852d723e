"""The manifests' settings for the MLflow server match the steps."""

import re
import subprocess
from urllib.parse import urlsplit

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.tracking.connect import check_host
from quantgate.pipelines import cluster
from tests.support.kustomized import MANIFESTS, OVERLAYS, ROOT, of_kind

SECRETS = MANIFESTS / "secrets"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_runs_mlflow_account_is_sent_only_to_the_server_of_the_manifests(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = of_kind(overlay, "ConfigMap")[cluster.MLFLOW_PLACE.name]["data"]["QUANTGATE_TRACKING_HOSTS"]
    monkeypatch.setenv("QUANTGATE_TRACKING_HOSTS", allowed)
    for host in ("mlflow", "mlflow.quantgate", "mlflow.quantgate.svc", "mlflow.quantgate.svc.cluster.local"):
        check_host(f"http://{host}:5000")
    for host in ("mlflow.example.org", "mlflow.quantgate.example.org", "mlflow.quantgate.svc.example.org"):
        with pytest.raises(PrerequisiteError, match="is not among those"):
            check_host(f"http://{host}:443")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_that_names_no_mlflow_is_recorded_in_the_overlays_own(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of_kind(overlay, "ConfigMap")[cluster.MLFLOW_PLACE.name]["data"]
    address = urlsplit(settings["QUANTGATE_TRACKING_URI"])
    ports = of_kind(overlay, "Service")[address.hostname or ""]["spec"]["ports"]
    assert address.port in [port["port"] for port in ports]
    monkeypatch.setenv("QUANTGATE_TRACKING_HOSTS", settings["QUANTGATE_TRACKING_HOSTS"])
    check_host(settings["QUANTGATE_TRACKING_URI"])


def test_the_documented_mlflow_certificates_match_the_steps_paths() -> None:
    """They are comments, because a variable that names a missing file would keep every run out of MLflow."""
    settings = (MANIFESTS / "base" / "settings.yaml").read_text(encoding="utf-8")
    shown = dict(re.findall(rf"# (\w+): {cluster.MLFLOW_FOLDER}/(\S+)", settings))
    assert shown.keys() == set(cluster.MLFLOW_PLACE.names) - {"QUANTGATE_TRACKING_HOSTS", "QUANTGATE_TRACKING_URI"}
    secrets = (SECRETS / "kustomization.yaml").read_text(encoding="utf-8")
    documented = re.search(rf"# - name: {cluster.MLFLOW_FILES}\n  #   files: \[(.+)\]", secrets)
    assert documented
    assert documented[1].split(", ") == list(shown.values())
    for file in shown.values():
        ignored = subprocess.run(["git", "check-ignore", "-q", SECRETS / file], cwd=ROOT, check=False)
        assert ignored.returncode == 0, file
