"""What a pipeline needs only on a cluster: images, resources, a GPU, secrets by reference, volumes, timeouts, retries.

On one machine kfp runs `ship` unchanged. For a cluster `fitted` builds the tasks of `ship` again and sets on each task
the needs of its step, by the task's name. The result is compiled and uploaded.

Two things are missing on purpose:

- Retries inside the loop. kfp ignores `set_retry` there (kubeflow/pipelines #13897). A step of a variant repeats its
  own calls where that helps, and records why its variant fails. The steps outside the loop are retried: a retry writes
  the same names with the same content.
- Settings that kfp-kubernetes 2.17 lacks: a step's service account, a pod without a token, a read-only root. Every pod
  has the run's account and token, because kfp's launcher, the first process of every step, needs them to fetch the
  inputs and store the outputs. So no step runs a model's programs in its own pod: `execute` starts a Job whose pod has
  no rights, no token and no network (components/sandbox/job.py).
"""

import functools
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from kfp import dsl, kubernetes
from kfp.dsl.pipeline_context import Pipeline

from quantgate import components
from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.labels import RUN_NAME
from quantgate.components.run.plan import QUANTIZE_GPUS
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, PREFIX, ServingSettings
from quantgate.components.servers.start_key import SERVERS_SECRET
from quantgate.pipelines.ship import ship

LABELS = {"app.kubernetes.io/managed-by": "quantgate"}
STEP_LABEL = "quantgate.dev/step"
CACHE = "/cache"
MEMORY = re.compile(r"[1-9]\d*([KMGTPE]i?)?")


@dataclass(frozen=True)
class Keys:
    """Keys of a Secret or ConfigMap in the run's namespace; each key is an environment variable of the same name."""

    name: str
    names: tuple[str, ...]
    optional: bool = False


S3_KEYS = Keys("quantgate-s3", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
S3_PLACE = Keys("quantgate-s3", ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"), optional=True)
"""A ConfigMap: its values are not secret. Optional, because AWS's S3 needs no endpoint."""
RUN_PLACES = Keys("quantgate-s3", ("QUANTGATE_STORE", "QUANTGATE_RESULTS"), optional=True)
"""In the same ConfigMap: where the weights and the results go of a run that gives no other place."""
HUB = Keys("quantgate-hub", ("HF_TOKEN",), optional=True)
SERVERS = Keys("quantgate-servers", (SERVERS_SECRET,))
"""The secret from which the API key of each start of a server is made."""
MLFLOW = Keys("quantgate-mlflow", ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), optional=True)
MLFLOW_TOKEN = Keys("quantgate-mlflow", ("MLFLOW_TRACKING_TOKEN",), optional=True)
"""In the same Secret, for an MLflow that takes a token in place of a name and a password."""
MLFLOW_PLACE = Keys(
    "quantgate-mlflow",
    (
        "QUANTGATE_TRACKING_URI",
        "QUANTGATE_TRACKING_HOSTS",
        "MLFLOW_TRACKING_SERVER_CERT_PATH",
        "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    ),
    optional=True,
)
"""A ConfigMap: the address of a run that gives none; the only servers that receive the Secret, whatever tracking URI a
run has; and which of the files below are the certificate authority of the server, and a client's certificate with its
key."""
MLFLOW_FILES, MLFLOW_FOLDER = "quantgate-mlflow-certificates", "/etc/quantgate/mlflow"
"""An optional Secret whose keys are files in that folder."""
SERVING = Keys(
    "quantgate-serving",
    tuple(
        f"{PREFIX}_{setting.name.upper()}"
        for setting in fields(ServingSettings)
        if setting.name not in ("kind", "namespace")
    ),
    optional=True,
)
"""A ConfigMap: how this cluster serves models. The namespace is the step's own."""
POD_FACTS = {RUN_NAME: "metadata.labels['workflows.argoproj.io/workflow']"}
"""The run's workflow: the owner of a served model and of a Job of programs, by owner reference and label."""

CONTAINMENT, SANDBOX_IMAGE = "QUANTGATE_CONTAINMENT", "QUANTGATE_SANDBOX_IMAGE"
SANDBOX = Keys("quantgate-sandbox", ("QUANTGATE_SANDBOX_RUNTIME_CLASS",), optional=True)
"""A ConfigMap: the RuntimeClass of the pods in which a model's programs run, if the cluster has a safer one."""


SECRETS = {secret.name: secret for secret in (S3_KEYS, HUB, MLFLOW, SERVERS)}


@dataclass(frozen=True)
class StepNeeds:
    """What one step gets from the cluster; the fields are the keys of the tasks in the step's tasks.yaml."""

    title: str
    """The task's display name in the graph. kfp's backend finds outputs by the task's own name since 2.14 (#11938)."""
    cpu: str
    memory: str
    """Request and limit are equal: otherwise a pod may be killed for its neighbour's memory, which fails the run."""
    timeout_s: int
    """Counts once the pod is on a node. A timeout fails the run, so it is longer than every deadline in the step."""
    secrets: tuple[Keys, ...] = (S3_KEYS,)
    retries: int = 0
    accelerated: bool = False
    """Whether it gets the GPUs, and the tolerations for their nodes."""
    torch: bool = False
    """Whether it needs the image with PyTorch and llm-compressor."""
    cached: bool = False
    serves: bool = False
    """Whether it starts, uses or stops the server of a variant, or checks that the run's account may do that."""
    describes_serving: bool = False
    """Whether it writes files that serve a variant as this cluster does, and starts nothing."""
    checks: bool = False
    """Whether it turns the run's parameters into the plan, with the places that the cluster sets."""
    runs_programs: bool = False
    """Whether it runs a model's programs, in a Job (components/sandbox/job.py)."""


def step_needs(file: Path) -> dict[str, StepNeeds]:
    """The needs of a step's tasks, by the task's name, from the step's tasks.yaml."""
    tasks = yaml.safe_load(file.read_text(encoding="utf-8"))["tasks"]
    return {
        name: StepNeeds(**{**needs, "secrets": tuple(SECRETS[key] for key in needs.get("secrets", [S3_KEYS.name]))})
        for name, needs in tasks.items()
    }


TASKS = (
    *("resolve", "quantize", "deploy", "evaluate-tiny", "evaluate-full", "flows", "execute", "undeploy"),
    *("gate", "report", "track", "promote", "conclude"),
)
"""In the order of the pipeline, in which a run reports them."""
NEEDS = {
    name: needs
    for file in Path(components.__path__[0]).glob("*/tasks.yaml")
    for name, needs in step_needs(file).items()
}
STEPS = {name: NEEDS[name] for name in TASKS}


@dataclass(frozen=True)
class Cluster:
    """The settings that differ between clusters."""

    image: str = "quantgate:0.1.0"
    """The image of every step except resolve and quantize."""
    quantize_image: str = "quantgate-quantize:0.1.0"
    """The image of resolve and quantize, with PyTorch for CUDA and llm-compressor."""
    parallelism: int = 1
    """How many variants run at the same time, each with its own server."""
    gpus: int = 1
    """The number of GPUs for quantize; 0 on a cluster without GPUs."""
    accelerator: str = "nvidia.com/gpu"
    """The name of the GPU resource, and of the taint that keeps other pods off GPU nodes."""
    quantize_memory: str = STEPS["quantize"].memory
    cache_claim: str = "quantgate-cache"
    """The volume claim that keeps models between runs; empty: each pod has its own empty cache."""
    serving: str = KSERVE
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes where quantize may run."""
    pull_secret: str = ""
    deadline_h: int = 0
    """Kubeflow ends a run after so many hours; 0: never. A run may wait for a GPU all that time."""
    keep_days: int = 0
    """How long a finished run's Workflow stays; 0: as long as this Kubeflow keeps one."""

    def __post_init__(self) -> None:
        """Refuse values that Kubeflow accepts and then fails on, or reads in another sense."""
        for option, image in (("--image", self.image), ("--quantize-image", self.quantize_image)):
            name = image.rpartition("/")[2]
            if "@" not in image and (":" not in name or name.endswith(":latest")):
                raise PrerequisiteError(
                    f"{option} {image} can change between two runs. Give a digest, "
                    f"{image.removesuffix(':latest')}@sha256:…, or an immutable tag."
                )
        if not MEMORY.fullmatch(self.quantize_memory):
            raise PrerequisiteError(
                f"--quantize-memory {self.quantize_memory} is not an amount of memory. Give one like 64Gi."
            )
        if self.parallelism < 1:
            raise PrerequisiteError("--parallelism must be 1 or more: Kubeflow reads 0 as no limit.")
        if self.serving not in (KSERVE, DEPLOYMENT):
            raise PrerequisiteError(f"--serving is {self.serving!r}. Choose from: {KSERVE}, {DEPLOYMENT}.")


def fitted(cluster: Cluster) -> dsl.graph_component.GraphComponent:
    """The pipeline `ship` with everything that its steps need on the cluster."""

    @functools.wraps(ship.pipeline_func)
    def fitted_ship(*parameters: object) -> None:
        ship.pipeline_func(*parameters)
        pipeline = Pipeline.get_default_pipeline()  # built by ship's lines; kfp reads it when this function returns
        for name, task in pipeline.tasks.items():
            fit(task, name, cluster)
        for loop in pipeline.groups[0].groups:
            loop.parallelism_limit = cluster.parallelism

    limits = dsl.PipelineConfig(
        active_deadline_seconds=cluster.deadline_h * 3600, ttl_seconds_after_finished=cluster.keep_days * 24 * 3600
    )  # kfp leaves out a 0
    return dsl.pipeline(name=ship.name, description=ship.description, pipeline_config=limits)(fitted_ship)


def fit(task: dsl.PipelineTask, name: str, cluster: Cluster) -> None:
    """Set on the task the resources, secrets and volumes that the step of that name needs on the cluster."""
    step = STEPS[name]
    image = cluster.quantize_image if step.torch else cluster.image
    task.set_display_name(step.title).set_container_image(image)
    task.set_env_variable("QUANTGATE_IMAGE", image)  # recorded with the run
    memory = cluster.quantize_memory if step.accelerated else step.memory
    task.set_cpu_request(step.cpu).set_memory_request(memory).set_memory_limit(memory)
    if step.retries:
        task.set_retry(step.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="600s")
    if step.runs_programs:
        task.set_env_variable(CONTAINMENT, "job").set_env_variable(SANDBOX_IMAGE, cluster.image)
    kubernetes.set_timeout(task, step.timeout_s)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    # No user id: OpenShift gives each namespace its own. The backend drops capabilities and privilege escalation.
    kubernetes.set_security_context(task, run_as_non_root=True)
    for label, value in (*LABELS.items(), (STEP_LABEL, name)):
        kubernetes.add_pod_label(task, label, value)
    if cluster.pull_secret:
        kubernetes.set_image_pull_secrets(task, [cluster.pull_secret])
    give_secrets(task, step)
    give_cache(task, step, cluster)
    if step.accelerated and cluster.gpus:
        task.set_accelerator_type(cluster.accelerator).set_accelerator_limit(cluster.gpus)
        kubernetes.add_toleration(task, key=cluster.accelerator, operator="Exists", effect="NoSchedule")
        if cluster.gpus > 1:  # where its processes share the weights; a container has 64 MiB there
            kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory")
    if step.accelerated and cluster.node_selector:
        for label, value in cluster.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
    if step.checks:
        task.set_env_variable(QUANTIZE_GPUS, str(cluster.gpus))
    if step.serves:
        task.set_env_variable(PREFIX, cluster.serving)
    if step.serves or step.runs_programs:
        for variable, path in POD_FACTS.items():
            kubernetes.use_field_path_as_env(task, variable, path)


def give_secrets(task: dsl.PipelineTask, step: StepNeeds) -> None:
    """Set the step's secrets and settings as variables, and MLflow's certificates as files.

    Only the kubelet reads their values; the pipeline contains only their names.
    """
    uses_mlflow = MLFLOW in step.secrets
    for secret in (*step.secrets, *([MLFLOW_TOKEN] if uses_mlflow else [])):
        keys = {key: key for key in secret.names}
        kubernetes.use_secret_as_env(task, secret.name, keys, optional=secret.optional)
    config_maps = (
        (True, S3_PLACE),
        (step.checks, RUN_PLACES),
        (step.serves or step.describes_serving, SERVING),
        (uses_mlflow, MLFLOW_PLACE),
        (step.runs_programs, SANDBOX),
    )
    for config_map in [config_map for is_needed, config_map in config_maps if is_needed]:
        keys = {key: key for key in config_map.names}
        kubernetes.use_config_map_as_env(task, config_map.name, keys, optional=config_map.optional)
    if uses_mlflow:
        kubernetes.use_secret_as_volume(task, MLFLOW_FILES, mount_path=MLFLOW_FOLDER, optional=True)


def give_cache(task: dsl.PipelineTask, step: StepNeeds, cluster: Cluster) -> None:
    """Mount a folder for downloaded models and rows; a volume claim keeps it between runs.

    With a parallelism of more than 1 the claim must be ReadWriteMany. Otherwise all steps wait for the claim's node.
    """
    if not step.cached:
        return
    if cluster.cache_claim:
        kubernetes.mount_pvc(task, cluster.cache_claim, CACHE)
    else:
        kubernetes.empty_dir_mount(task, "cache", CACHE)
    task.set_env_variable("QUANTGATE_CACHE", CACHE)
    task.set_env_variable("HF_HOME", f"{CACHE}/huggingface")
