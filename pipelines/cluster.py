"""What only a cluster needs: images, resources, a GPU, secrets by reference, volumes, time limits, retries.

`ship` says what happens and stays as it is: locally kfp runs it as it stands. `fitted` lets it build its tasks once
more and gives each of them, by its name, what the row of its step says; what comes out is compiled and uploaded.

Three things that one would expect here are left out on purpose:

- Retries inside the loop. `set_retry` there is ignored (kubeflow/pipelines #13897); a step of a variant repeats what is
  worth repeating itself, and writes down why its variant cannot go on. The steps outside the loop are repeated: each
  writes the same names again with the same content.
- Display names. A backend that lacks the fix of kubeflow/pipelines #11173 looks a task's outputs up by its display
  name and does not find them. The names of the steps are the graph's names.
- What kfp-kubernetes 2.17 cannot set: a step's service account, whether its pod has a token, a read-only root. A pod
  has the run's account and its token, without which kfp's launcher, which is the first process of every step, does not
  start: it fetches the inputs and keeps the outputs. So no step runs a model's programs in its own pod: `execute` has
  a Job do it, whose pod has no rights, no token and no network (components/sandbox/job.py).
"""

import functools
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from kfp import dsl, kubernetes
from kfp.dsl.pipeline_context import Pipeline

import components
from components.errors import PrerequisiteError
from components.servers.cluster_settings import DEPLOYMENT, KSERVE, PREFIX, ServingSettings
from pipelines.ship import ship

LABELS = {"app.kubernetes.io/managed-by": "quantgate"}
STEP_LABEL = "quantgate.dev/step"
CACHE = "/cache"
MEMORY = re.compile(r"[1-9]\d*([KMGTPE]i?)?")


@dataclass(frozen=True)
class Keys:
    """Keys of a Secret or ConfigMap of the run's namespace, each the environment variable of the same name."""

    name: str
    names: tuple[str, ...]
    optional: bool = False


S3_KEYS = Keys("quantgate-s3", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
S3_PLACE = Keys("quantgate-s3", ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"), optional=True)
"""A ConfigMap: it holds nothing to hide, and AWS's own S3 needs no endpoint."""
HUB = Keys("quantgate-hub", ("HF_TOKEN",), optional=True)
MLFLOW = Keys("quantgate-mlflow", ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), optional=True)
MLFLOW_TOKEN = Keys("quantgate-mlflow", ("MLFLOW_TRACKING_TOKEN",), optional=True)
"""Of the same Secret, where MLflow takes a token in place of a name and a password."""
MLFLOW_PLACE = Keys(
    "quantgate-mlflow",
    ("QUANTGATE_TRACKING_HOSTS", "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"),
    optional=True,
)
"""A ConfigMap: the only servers that the Secret is sent to, whatever address a run is started with; and which of the
files below are the authority that signed the server's certificate, and a client's certificate with its key."""
MLFLOW_FILES, MLFLOW_FOLDER = "quantgate-mlflow-certificates", "/etc/quantgate/mlflow"
"""A Secret whose keys are files of that folder, where there is one."""
SERVING = Keys(
    "quantgate-serving",
    tuple(
        f"{PREFIX}_{each.name.upper()}" for each in fields(ServingSettings) if each.name not in ("kind", "namespace")
    ),
    optional=True,
)
"""A ConfigMap: how this cluster serves models. Its namespace is the step's own."""
POD_FACTS = {"QUANTGATE_RUN": "metadata.labels['workflows.argoproj.io/workflow']"}
"""Whose a served model and a Job of programs are: owner reference and label name the run's workflow."""

CONTAINMENT, SANDBOX_IMAGE = "QUANTGATE_CONTAINMENT", "QUANTGATE_SANDBOX_IMAGE"
SANDBOX = Keys("quantgate-sandbox", ("QUANTGATE_SANDBOX_RUNTIME_CLASS",), optional=True)
"""A ConfigMap: the RuntimeClass of the pods in which a model's programs run, where the cluster has a safer one."""


SECRETS = {each.name: each for each in (S3_KEYS, HUB, MLFLOW)}


@dataclass(frozen=True)
class StepNeeds:
    """What one step gets of the cluster; the fields are the keys of the tasks in its metadata.yaml."""

    cpu: str
    memory: str
    """Requested, and the most it may take: a pod that is killed for its neighbour's memory would fail the run."""
    timeout_s: int
    """Of the pod, once it is on a node. It fails the run, so it is longer than every deadline inside the step."""
    secrets: tuple[Keys, ...] = (S3_KEYS,)
    retries: int = 0
    accelerated: bool = False
    """Whether it gets the GPUs, and the tolerations that lead to them."""
    torch: bool = False
    """Whether it needs the image with PyTorch and llm-compressor."""
    cached: bool = False
    serves: bool = False
    """Whether it starts, uses or stops the server of a variant."""
    runs_programs: bool = False
    """Whether it has programs of a model's run, by a Job of their own (components/sandbox/job.py)."""


def step_needs(metadata: Path) -> dict[str, StepNeeds]:
    """What the tasks of a step need, by the task's name, as the step's metadata.yaml says."""
    tasks = yaml.safe_load(metadata.read_text(encoding="utf-8"))["tasks"]
    return {
        name: StepNeeds(**{**needs, "secrets": tuple(SECRETS[each] for each in needs.get("secrets", [S3_KEYS.name]))})
        for name, needs in tasks.items()
    }


TASKS = (
    *("resolve", "quantize", "deploy", "evaluate-tiny", "evaluate-full", "execute", "undeploy"),
    *("gate", "report", "track", "promote"),
)
"""In the order of the pipeline, in which a run tells of them."""
NEEDS = {
    name: needs
    for metadata in Path(components.__path__[0]).glob("*/metadata.yaml")
    for name, needs in step_needs(metadata).items()
}
STEPS = {name: NEEDS[name] for name in TASKS}


@dataclass(frozen=True)
class Cluster:
    """What differs from cluster to cluster."""

    image: str = "quantgate:0.1.0"
    """Of every step but resolve and quantize."""
    quantize_image: str = "quantgate-quantize:0.1.0"
    """With PyTorch for CUDA and llm-compressor."""
    parallelism: int = 1
    """How many variants are under way at a time, each with its own server."""
    gpus: int = 1
    """For quantize; 0 where it has to do without."""
    accelerator: str = "nvidia.com/gpu"
    """The resource's name, and the taint's that keeps others off such nodes."""
    quantize_memory: str = STEPS["quantize"].memory
    cache_claim: str = "quantgate-cache"
    """The volume claim that keeps models between runs; empty: each pod has an empty cache of its own."""
    serving: str = KSERVE
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes where quantize may run."""
    pull_secret: str = ""

    def __post_init__(self) -> None:
        """Refuse what Kubeflow would take and fail on, or what means another thing than it seems."""
        for option, image in (("--image", self.image), ("--quantize-image", self.quantize_image)):
            name = image.rpartition("/")[2]
            if "@" not in image and (":" not in name or name.endswith(":latest")):
                raise PrerequisiteError(
                    f"{option} {image} can become another image between two runs. Give a digest, "
                    f"{image.removesuffix(':latest')}@sha256:…, or an immutable tag."
                )
        if not MEMORY.fullmatch(self.quantize_memory):
            raise PrerequisiteError(
                f"--quantize-memory {self.quantize_memory} is no amount of memory. Give one like 64Gi."
            )
        if self.parallelism < 1:
            raise PrerequisiteError("--parallelism must be 1 or more: Kubeflow takes 0 for no limit at all.")
        if self.serving not in (KSERVE, DEPLOYMENT):
            raise PrerequisiteError(f"--serving is {self.serving!r}. Choose from: {KSERVE}, {DEPLOYMENT}.")


def fitted(cluster: Cluster) -> dsl.graph_component.GraphComponent:
    """The pipeline `ship` with all that its steps need on that cluster."""

    @functools.wraps(ship.pipeline_func)
    def story(*parameters: object) -> None:
        ship.pipeline_func(*parameters)
        made = Pipeline.get_default_pipeline()  # what ship's lines have built; kfp reads it when this function returns
        for name, task in made.tasks.items():
            fit(task, name, cluster)
        for loop in made.groups[0].groups:
            loop.parallelism_limit = cluster.parallelism

    return dsl.pipeline(name=ship.name, description=ship.description)(story)


def fit(task: dsl.PipelineTask, name: str, cluster: Cluster) -> None:
    """Give the task of the step of that name what its row says."""
    step = STEPS[name]
    image = cluster.quantize_image if step.torch else cluster.image
    task.set_container_image(image).set_env_variable("QUANTGATE_IMAGE", image)  # what is recorded of the run
    memory = cluster.quantize_memory if step.accelerated else step.memory
    task.set_cpu_request(step.cpu).set_memory_request(memory).set_memory_limit(memory)
    if step.retries:
        task.set_retry(step.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="600s")
    if step.runs_programs:
        task.set_env_variable(CONTAINMENT, "job").set_env_variable(SANDBOX_IMAGE, cluster.image)
    kubernetes.set_timeout(task, step.timeout_s)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    # No user id: OpenShift gives each namespace its own. Capabilities and privilege escalation the backend takes away.
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
    if step.accelerated and cluster.node_selector:
        for label, value in cluster.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
    if step.serves:
        task.set_env_variable(PREFIX, cluster.serving)
    if step.serves or step.runs_programs:
        for variable, path in POD_FACTS.items():
            kubernetes.use_field_path_as_env(task, variable, path)


def give_secrets(task: dsl.PipelineTask, step: StepNeeds) -> None:
    """The step's secrets as variables, and as files where those are asked for: the kubelet reads them, no pipeline."""
    records = MLFLOW in step.secrets
    for secret in (*step.secrets, *([MLFLOW_TOKEN] if records else [])):
        keys = {key: key for key in secret.names}
        kubernetes.use_secret_as_env(task, secret.name, keys, optional=secret.optional)
    told = ((True, S3_PLACE), (step.serves, SERVING), (records, MLFLOW_PLACE), (step.runs_programs, SANDBOX))
    for place in [place for is_told, place in told if is_told]:
        keys = {key: key for key in place.names}
        kubernetes.use_config_map_as_env(task, place.name, keys, optional=place.optional)
    if records:
        kubernetes.use_secret_as_volume(task, MLFLOW_FILES, mount_path=MLFLOW_FOLDER, optional=True)


def give_cache(task: dsl.PipelineTask, step: StepNeeds, cluster: Cluster) -> None:
    """A folder for models and rows that were fetched, kept between runs where there is a claim for it.

    With a parallelism of more than 1 the claim must be ReadWriteMany, or all steps wait for the one node that has it.
    """
    if not step.cached:
        return
    if cluster.cache_claim:
        kubernetes.mount_pvc(task, cluster.cache_claim, CACHE)
    else:
        kubernetes.empty_dir_mount(task, "cache", CACHE)
    task.set_env_variable("QUANTGATE_CACHE", CACHE)
    task.set_env_variable("HF_HOME", f"{CACHE}/huggingface")
