"""What a compiled pipeline needs from a cluster, read from its YAML: images, pull Secrets, GPUs, memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.servers.cluster_settings import KSERVE, PREFIX

JSON = dict[str, Any]


@dataclass(frozen=True)
class PodNeeds:
    """What one pod needs."""

    name: str
    cpu: str
    memory: str
    gpus: int = 0
    gpu_resource: str = ""
    node_selector: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PipelineNeeds:
    """What the steps of a pipeline need."""

    images: tuple[str, ...]
    pull_secrets: tuple[str, ...]
    mounts: tuple[tuple[str, str], ...]
    """Plural and name of each Secret and volume claim without which a pod does not start."""
    serving: str
    """How its variants are served: `kserve` or `deployment`."""
    largest: tuple[PodNeeds, ...]
    """The step with the most memory, and each step with GPUs."""

    def with_images(self, images: Sequence[str]) -> "PipelineNeeds":
        """The needs with more images."""
        return replace(self, images=tuple(dict.fromkeys([*self.images, *images])))


def pipeline_needs(file: Path) -> PipelineNeeds:
    """The needs of the pipeline in the file; raises PrerequisiteError when the file is not a compiled pipeline."""
    try:
        spec, platform = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        executors: JSON = spec["deploymentSpec"]["executors"]
        on_kubernetes: JSON = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        pods = [
            pod_needs(name, executor["container"], on_kubernetes.get(name, {})) for name, executor in executors.items()
        ]
    except OSError as error:
        raise PrerequisiteError(
            f"Cannot read {file}: {error.strerror}. The checks are for one pipeline: write it with quantgate compile "
            f"--out {file} --image …"
        ) from None
    except (yaml.YAMLError, ValueError, KeyError, TypeError):
        raise PrerequisiteError(f"{file} is not a pipeline for a cluster. Write one with quantgate compile.") from None
    serving = [
        variable["value"]
        for executor in executors.values()
        for variable in executor["container"].get("env", ())
        if variable["name"] == PREFIX
    ]
    secrets = {
        entry["secretName"]
        for platform_of in on_kubernetes.values()
        for entry in platform_of.get("imagePullSecret", ())
    }
    largest = max(pods, key=lambda pod: float(executors[pod.name]["container"]["resources"]["memoryLimit"]))
    return PipelineNeeds(
        images=tuple(sorted({executor["container"]["image"] for executor in executors.values()})),
        pull_secrets=tuple(sorted(secrets)),
        mounts=tuple(dict.fromkeys(mount for platform_of in on_kubernetes.values() for mount in mounts(platform_of))),
        serving=serving[0] if serving else KSERVE,
        largest=tuple(dict.fromkeys([largest, *(pod for pod in pods if pod.gpus)])),
    )


def mounts(on_kubernetes: JSON) -> Iterator[tuple[str, str]]:
    """What one step's pod must find in its namespace."""
    for entry in on_kubernetes.get("secretAsEnv", ()):
        if not entry.get("optional"):
            yield "secrets", entry["secretName"]
    for entry in on_kubernetes.get("pvcMount", ()):
        yield "persistentvolumeclaims", entry["constant"]


def pod_needs(name: str, container: JSON, on_kubernetes: JSON) -> PodNeeds:
    """The needs of one step's pod."""
    resources: JSON = container["resources"]
    accelerator: JSON = resources.get("accelerator", {})
    return PodNeeds(
        name=name,
        cpu=resources["resourceCpuRequest"],
        memory=resources["resourceMemoryLimit"],
        gpus=int(accelerator.get("resourceCount", 0)),
        gpu_resource=accelerator.get("resourceType", ""),
        node_selector=tuple(sorted(on_kubernetes.get("nodeSelector", {}).get("labels", {}).items())),
    )
