"""A load test as a Job on a cluster, because the image of a run's steps has no vLLM.

The Job's pod has the image of vLLM's servers, also for a GGUF file, and runs on the same nodes. It asks for no GPU. An
init container fetches the model's tokenizer, from which vLLM makes the prompts. The pod gets the server's key as the
server does: by reference to the Secret of the server's start.
"""

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import JOB, JSON, ClusterClient
from quantgate.components.kubernetes.owner import run_name
from quantgate.components.run.artifacts import Server, Weights
from quantgate.components.run.load_results import LoadSettings
from quantgate.components.run.results import RunResults
from quantgate.components.servers import kserve, step_job, vllm_pod
from quantgate.components.servers.bench_command import BENCH_KEY_VARIABLE, arguments, runs, saved_in
from quantgate.components.servers.cluster_engine import find_runtime
from quantgate.components.servers.cluster_settings import ServingSettings, from_environment
from quantgate.components.servers.step_job import StepJob
from quantgate.components.servers.vllm_pod import Served

LOAD_TEST = "quantgate.dev/load-test"
"""The label of the pods that may ask a variant's server beside the steps, for the network policies."""
CONTAINER = "load-test"
CPUS, MEMORY = "1", "4Gi"
"""One process sends all requests; vLLM and PyTorch take half a GiB when they are imported."""
SAVED = "/tmp"
PRINTED_LINES = 100
"""vLLM's own lines of each run."""
NO_GPU = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""vLLM's image asks for all GPUs of the node, and some nodes' container runtimes give them."""


def measured_in_job(server: Server, settings: LoadSettings, results: str, within_s: float) -> dict[int, str]:
    """What vLLM saved by the seed of the run; raises PrerequisiteError with the reason if the Job does not end well."""
    serving = from_environment()
    cluster = ClusterClient(serving.namespace, serving.ready_within_s)  # a cluster in trouble is waited out
    served = served_by(cluster, server, results)
    job = load_job(cluster, served)
    spec = pod_spec(served, server, settings, serving, find_runtime(cluster, serving).image)
    planned = len(runs(server, settings, SAVED))
    saved: dict[int, str] = {}

    def read(_pod: str, lines: list[str]) -> bool:
        saved.update(saved_in(lines))
        return len(saved) == planned

    with kserve.kept_alive(server, results, serving):
        step_job.run(job, [(JOB, job.body(spec, within_s))], read, PRINTED_LINES * planned)
    return saved


def served_by(cluster: ClusterClient, server: Server, results: str) -> Served:
    """The variant that the server serves, with the address of its tokenizer and the name of the server's Secret."""
    weights = RunResults(results).weights(server.variant).read(Weights)
    if weights is None:
        raise PrerequisiteError(
            f"The results lack the weights of {server.variant}, and so its tokenizer: run it again."
        )
    run = run_name(cluster, results)
    return Served(run, server.variant, weights.uri, (), digest=weights.digest, key_secret=server.key_secret)


def load_job(cluster: ClusterClient, served: Served) -> StepJob:
    """The Job; `undeploy` removes it as it removes the server, by the labels of the variant's objects."""
    name = Served(f"{served.run} load test", served.variant, "", ()).name  # another hash than the server's
    labels = {**served.labels, LOAD_TEST: served.variant}
    return StepJob(cluster, name, labels, CONTAINER, f"load-tests the server of {served.variant}")


def pod_spec(served: Served, server: Server, settings: LoadSettings, serving: ServingSettings, image: str) -> JSON:
    """The Job's pod: the pod security standard `restricted`, and no token of the API server."""
    tokenizer = server.model_copy(update={"model_path": vllm_pod.FETCHED})
    variables = [{"name": name, "value": value} for name, value in {**vllm_pod.ENVIRONMENT, **NO_GPU}.items()]
    container = {
        "name": CONTAINER,
        "image": image,
        "command": ["python3", *arguments(tokenizer, settings, SAVED)],
        "env": [*variables, vllm_pod.key_reference(served, BENCH_KEY_VARIABLE)],
        "resources": {"requests": {"cpu": CPUS, "memory": MEMORY}, "limits": {"memory": MEMORY}},
        "securityContext": vllm_pod.confined(),
        "volumeMounts": [
            {"name": "weights", "mountPath": vllm_pod.MODELS, "readOnly": True},
            {"name": "tmp", "mountPath": SAVED},
        ],
    }
    return {
        **vllm_pod.placed(serving),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": vllm_pod.unprivileged(serving.run_as_user),
        "initContainers": [vllm_pod.fetcher(served, serving, "--without-weights")],
        "containers": [container],
        "volumes": vllm_pod.scratch(serving),
    }
