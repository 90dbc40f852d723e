"""The evaluation plan: which variants a run makes, what it tests, and how it is judged."""

from pydantic import Field

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.calibration import Calibration
from quantgate.components.run.checkpoint import Checkpoint
from quantgate.components.run.load_results import OFF
from quantgate.components.storage.artifact import Artifact

FAILING = ("not_comparable", "failed", "inconclusive", "reject")
"""The verdicts that may fail a run on Kubeflow."""
QUANTIZE_GPUS = "QUANTGATE_QUANTIZE_GPUS"
"""The variable that tells `resolve` on a cluster how many GPUs the pipeline gives the step `quantize`."""


class EvaluationPlan(Artifact):
    """The variants, their tests and the policy that judges them: fixed once, before anything is started.

    A field with a description is an option of a run, and only this class declares it: pipelines/options.py builds the
    command line's options and the pipeline's parameters from these fields. It fills in {variants} and the other braces.
    """

    variants: tuple[str, ...] = Field(
        description="Comma-separated variants, of {variants}; or auto: those that the GPU or CPU serves well. The"
        " baseline {baseline} is always included [{default}; with --search auto]."
    )
    """The baseline first."""
    native: str | None = None
    """The quant_method of the model's own weights, as `fp8`; empty for 16 bits, None while it is not known."""
    variant: tuple[str, ...] = Field(
        (),
        description="A checkpoint that is quantized already, as a variant: NAME=file:PATH, NAME=hf:ORG/NAME or"
        " NAME=s3://BUCKET/PREFIX, by compressed-tensors, AWQ or GPTQ; or a GGUF file,"
        " NAME=file:MODEL.gguf or NAME=s3://BUCKET/FOLDER/MODEL.gguf; may be repeated.",
    )
    variant_kept: dict[str, Checkpoint] = {}
    """By name, these checkpoints as `resolve` has checked and stored them."""
    variant_recipe: tuple[str, ...] = Field(
        (),
        description="A variant by a recipe of your own: NAME=recipe.yaml, which llm-compressor reads; may be repeated.",
    )
    """NAME= and the text of the file; components/models/recipe_file.py reads it."""
    seeds: int = Field(
        1,
        ge=1,
        le=10,
        description="Make each quantized variant so many times, with other calibration texts and seeds: as int8,"
        " int8.seed1, int8.seed2.",
    )
    search: bool = Field(
        False,
        description="Try the variants from the smallest up, and leave out those above the first that the policy lets"
        " be promoted.",
    )
    suite: str = Field("demo", description="The benchmarks, one suite or several: {suites}, or a YAML file of tasks.")
    """Names, and the texts of files; components/benchmarks/suite_file.py joins them."""
    suite_kept: str = ""
    """The suite as `resolve` has checked it: its files say every setting, and where the run's copies are."""
    trust_tasks: bool = Field(False, description="Load the Python functions of a suite file's own tasks.")
    custom: tuple[str, ...] = Field(
        (),
        description="A custom task: a folder with set.yaml and items.jsonl, or canopy; may be repeated.",
    )
    custom_kept: tuple[str, ...] = ()
    """The run's own copies of the custom tasks, which the steps after `resolve` read."""
    limit: int = Field(0, ge=0, description="Maximum number of items per task; 0 is no limit.")
    data: str = Field(
        "", description="Source of the rows: hub, embedded, or a mirror from `quantgate mirror` [the suite's default]."
    )
    max_model_len: int = Field(
        0, ge=0, description="The window: the most tokens of a prompt and its answer [0: what the suite needs]."
    )
    prompts: str = ""
    """The file of the suite's prompts as token ids, which `resolve` prepares."""
    prompts_sha256: str = ""
    """Of the bytes of that file, which lies in the store."""
    tokenizer: str = ""
    """The digest of the tokenizer's files with which they were prepared."""
    window: int = 0
    """The window with which every variant is served."""
    too_long: dict[str, int] = {}
    """By task, the number of items that do not fit the window, and are left out for all variants."""
    made_rows: str = ""
    """The mirror with the rows that `resolve` has made with the model's tokenizer."""
    chat_template: bool = Field(False, description="Wrap prompts in the model's chat template.")
    chat: str = Field(
        "",
        description="Ask generated tasks as chats (/v1/chat/completions): no, yes, or auto if the model has a chat"
        " template [the suite's default].",
    )
    has_template: bool = False
    """Whether the model has a chat template, which `resolve` finds out."""
    samples: int = Field(0, ge=0, description="Answers to each question of generated tasks [0: the suite's default].")
    temperature: float = Field(0.0, ge=0, description="Temperature of generated answers [0: the suite's default].")
    max_answer_tokens: int = Field(
        0, ge=0, description="Maximum tokens of a generated answer, thinking included [0: the task's own]."
    )
    irt_parameters: str = Field(
        "", description="File tinyBenchmarks.pkl, for the IRT estimates beside the means; its sha256 is checked."
    )
    irt_parameters_kept: str = ""
    """The run's own copy of the IRT parameters."""
    flows: tuple[str, ...] = Field(
        (),
        description="What the application asks, with checks of the answers: {packs} (shipped), a YAML file, a folder,"
        " or bfcl:N (N tool calls of each kind); may be repeated.",
    )
    """Names of packs, and the JSON of files; components/flow_cases/flow_sources.py reads them."""
    tool_call_parser: str = Field(
        "",
        description="vLLM's parser of tool calls, for flows with tools; none leaves these flows out [by the chat"
        " template].",
    )
    judge: str = Field(
        "", description="Base URL of a judge's OpenAI-compatible API, for flows with rubrics; on this machine only."
    )
    judge_model: str = Field("", description="The judge's served name.")
    judge_key: str = Field("", description="Name of the environment variable with the judge's API key.")
    flows_kept: str = ""
    """The run's own copy of all flows."""
    flows_sha256: str = ""
    """Of their content; empty without flows."""
    flows_left_out: dict[str, str] = {}
    """Why a flow cannot be asked of this model, by the flow's id."""
    flows_notes: tuple[str, ...] = ()
    """What the flow files have that is left out, for readers."""
    flows_tokens: int = 0
    """The most tokens that a flow needs, with its answers."""
    tool_parser: str = ""
    """The parser of tool calls that `resolve` has chosen; empty when no flow needs one."""
    use_case: str = Field("general-chat", description="Use case whose limits decide: {use_cases}.")
    policy: str = Field("", description="YAML file of a custom policy, in place of the use case's.")
    """The text of the file."""
    limits: UseCase | None = None
    """The policy or the use case that decides; `resolve` parses it once."""
    check_power: bool = Field(
        True, description="Refuse questions that are too few for even a perfect copy of the baseline to pass."
    )
    stop_early: bool = Field(True, description="Stop testing a variant once no answer can change its verdict.")
    noise_floor: bool = Field(
        False, description="Test the baseline twice, to measure how many answers differ by chance alone."
    )
    speed: str = Field(
        OFF,
        description="Load-test each server with vLLM's bench serve: off, quick, full, or numbers of requests at a time,"
        " as 1,16.",
    )
    store: str = Field(description="Where weights are stored: a folder or s3://BUCKET/PREFIX.")
    results: str = Field(
        description="Where reports, scores and records are written: a folder, or s3://BUCKET/PREFIX; a subfolder a run."
    )
    calibration: str = Field(
        "",
        description="Calibration texts: boolq (embedded), a JSONL file, or hf:OWNER/NAME:SPLIT [UltraChat, where the"
        " rows' source has it, else boolq].",
    )
    calibration_also: tuple[str, ...] = Field(
        (),
        max_length=9,
        description="Further calibration texts, with which each calibrated variant is made too, as int8.calib1; may be"
        " repeated.",
    )
    calibration_samples: int = Field(
        0, ge=0, description="Number of calibration texts [0: 32 of boolq, 512 of others]."
    )
    calibration_tokens: int = Field(
        0, ge=0, description="Tokens to which each calibration text is cut [0: 256 of boolq, 2,048 of others]."
    )
    quantize_gpus: int = Field(
        1,
        ge=1,
        description="GPUs that quantize one variant, each with a part of the calibration texts. Methods other than GPTQ"
        " and RTN use one. On a cluster at most `quantgate compile --gpus`.",
    )
    calibration_set: Calibration | None = None
    """The texts that `resolve` has chosen; None when no variant is quantized."""
    calibration_sets_also: tuple[Calibration, ...] = ()
    """Those of `calibration_also`."""
    ledger: bool = Field(True, description="Reuse a model's answers from an earlier run or stage.")
    skip_judged: bool = Field(False, description="End early if MLflow has a verdict on this model by the same plan.")
    fail_run_on: str = Field(
        "not_comparable,failed",
        description="Comma-separated verdicts that fail the run in Kubeflow once everything is recorded, of {failing};"
        " empty for none.",
    )
    tracking_uri: str = Field("", description="MLflow's tracking server [a local run: its own store].")
    asked: str = ""
    """sha256 of everything that determines the questions: tasks, their definitions and settings, and the rows."""
    experiment: str = ""
    """MLflow's experiment of the run, which `resolve` names: the only one from which earlier results are taken."""
    started_at: float = 0.0
    """Unix time in seconds at which the step `resolve` began; 0 in plans of an earlier version."""
    judged_in: str = ""
    """The MLflow run with the earlier verdict; empty when there is none, or `skip_judged` is off."""

    @property
    def baseline(self) -> str:
        """The baseline's name, when the plan is checked."""
        return self.variants[0]

    @property
    def failing_verdicts(self) -> tuple[str, ...]:
        """The verdicts that fail the run; raises PrerequisiteError with the list for an unknown one."""
        verdicts = tuple(verdict.strip() for verdict in self.fail_run_on.split(",") if verdict.strip())
        if unknown := [verdict for verdict in verdicts if verdict not in FAILING]:
            raise PrerequisiteError(
                f"Unknown verdict {unknown[0]!r} in --fail-run-on. Choose from: {', '.join(FAILING)}."
            )
        return verdicts

    @property
    def decided_limits(self) -> UseCase:
        """The limits, when `resolve` has checked the plan; raises ValueError otherwise."""
        if self.limits is None:
            raise ValueError("The policy of this plan is not parsed: the step `resolve` does that.")
        return self.limits

    def calibration_of(self, number: int) -> Calibration | None:
        """The chosen texts of that number: 0 are those of `calibration`, 1 the first of `calibration_also`."""
        return self.calibration_sets_also[number - 1] if number else self.calibration_set

    @property
    def chosen_calibration(self) -> Calibration:
        """The calibration texts, when `resolve` has chosen them; raises ValueError otherwise."""
        if self.calibration_set is None:
            raise ValueError("The calibration texts of this plan are not chosen: the step `resolve` does that.")
        return self.calibration_set


PARAMETERS = ("variants", "suite", "use_case", "policy", "limit")
"""The fields that are parameters of the pipeline."""
SETTINGS = tuple(
    name for name, field in EvaluationPlan.model_fields.items() if field.description and name not in PARAMETERS
)
"""The fields that are keys of the pipeline's parameter `settings`."""
