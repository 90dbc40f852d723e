"""The gate's result, one frozen value: the decision matrix, and the evidence for each verdict."""

from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import Model, Scores, VariantName, Weights
from quantgate.components.run.attempts import Attempt
from quantgate.components.run.evidence_digests import Digests
from quantgate.components.run.load_results import LoadTest
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage.artifact import Artifact


class DropBounds(Artifact):
    """A drop by one way of scoring items, in the limit's unit, with the bounds that it has alone."""

    estimate: float | None
    lower: float | None
    upper: float | None


class LimitEvidence(Artifact):
    """One limit of the policy and the evidence for it. The unit, by `kind`: shares or points, nats, a ratio."""

    what: str
    """The limited quantity: a task's name, or `average`."""
    kind: str
    """drop, divergence, perplexity, length (how much longer the answers are), cut (the share of cut answers),
    loss (a limit of 0 on flows: the share of the cases that the baseline passes and the variant loses).

    Also speedup and first_token: output tokens/s and time to the first token, relative to the baseline's.
    """
    limit: float
    estimate: float | None
    lower: float | None
    """One-sided confidence bound, or None."""
    upper: float | None
    outcome: str
    """passed, exceeded, open, undecidable (below the noise floor), uninformative (the baseline is not above chance)."""
    further_items: int | None = None
    """Further items that would decide an open limit at 80 % power if the estimate is true; None: no number would."""
    by_answers: DropBounds | None = None
    """By right and wrong answers alone; None unless margins decide too."""
    by_margins: DropBounds | None = None
    """By margins alone, on tasks without margins by answers."""


class MarginEvidence(Artifact):
    """One task's scores by the margins of its choices, where the policy counts them."""

    tau: float
    """The spread of the margins' change, in nats; for acc_norm in nats per character."""
    before: float
    """The baseline's score by margins."""
    after: float
    distance: float
    """The drop by right and wrong answers less the drop by margins, in points of 1."""
    distance_lower: float | None
    """With 97.5 % confidence on each side."""
    distance_upper: float | None
    contradicted: bool
    """Whether that distance is beyond chance: then the answers must show a drop with the policy's own confidence."""


class TaskEvidence(Artifact):
    """The result of pairing one task's items."""

    task: str
    items: int
    clusters: int = 0
    """Number of clusters; 0 when items are independent."""
    informative: bool
    """Whether the baseline is above chance (one-sided test); otherwise no drop can show."""
    drop_lower: float | None = None
    drop_upper: float | None = None
    lost: int
    """Right before, wrong now."""
    gained: int
    flip_rate: float
    flip_rate_lower: float
    flip_rate_upper: float
    mcnemar_p: float
    """Exact, two-sided; the null hypothesis: as many items are gained as lost."""
    kl: float | None = None
    """Mean KL divergence of the choices' distribution from the baseline's, in nats per item."""
    kl_stderr: float | None = None
    noise_floor: float | None = None
    """The drop or gain of the score between two passes of the baseline, without its sign; None when not measured."""
    noise_floor_upper: float | None = None
    """The largest drop or gain that the two passes do not rule out."""
    noise_flip_rate: float | None = None
    """The share of answers that flip between the two passes, in either direction."""
    margins: MarginEvidence | None = None
    """None where right and wrong answers decide alone."""
    only_answers: str = ""
    """Why they do, if the policy counts margins."""
    longer: float | None = None
    """Growth of the answers' mean number of tokens from the baseline's, 0.2 is 20 %; None when not measured."""
    longer_lower: float | None = None
    longer_upper: float | None = None


class Flip(Artifact):
    """One question where variant and baseline answer differently, for a reader."""

    variant: VariantName
    task: str
    cluster: str
    item_id: int
    sample: int = 0
    """Number of the answer, when an item was asked several times."""
    lost: bool
    """True: right before, wrong now. False: wrong before, right now."""
    question: str
    """The beginning of the question, without shots."""
    right: str
    """The right choice; empty without choices, or when lm-eval does not name it."""
    before: str
    """The baseline's answer."""
    after: str
    """The variant's answer."""
    moved: float
    """Change of the right choice's share of the probability."""
    reason: str = ""
    """Why the answer fails a flow's check; empty elsewhere."""


class Verdict(Artifact):
    """One row of the decision matrix."""

    variant: VariantName
    verdict: str
    """reference, ship, monitor, ab_test, reject, inconclusive, not_comparable, failed; skipped: see Weights."""
    sentence: str
    """The reason, for a release manager."""
    next_step: str
    size_bytes: int = 0
    scores: dict[str, float] = {}
    drops: dict[str, float] = {}
    """Per task, relative to the baseline (or in points, if the policy says so): 0.02 is 2 %; negative is a gain."""
    average_drop: float | None = None
    """Drop of the mean score, in the same unit; None when not measured."""
    form: str = "point"
    """evidence: with confidence bounds from per-item answers; point: measured drops without bounds."""
    confidence: float | None = None
    """Confidence of each one-sided bound, corrected for the number of variants and looks."""
    limits: tuple[LimitEvidence, ...] = ()
    tasks: tuple[TaskEvidence, ...] = ()
    perplexity_ratios: dict[str, float] = {}
    """Per perplexity task: the variant's perplexity over the baseline's."""
    items: int = 0
    planned_items: int = 0
    """More than `items` where the variant was stopped early."""


class Comparison(Artifact):
    """The comparison of two variants on the same items."""

    better: str
    worse: str
    difference: float
    """Difference of the mean scores, in points of 1."""
    p: float
    """Two-sided, with Holm's correction for all pairs of the run."""


class PublishedComparison(Artifact):
    """The baseline's score on one task beside a published one, both as shares."""

    task: str
    metric: str
    shots: int
    items: int
    published: float
    measured: float
    lower: float
    """95 % confidence interval of the score on all questions behind the published one."""
    upper: float
    tolerance: float
    source: str
    """Where it was published; may be empty."""
    required: bool
    """Whether the policy names the published score; otherwise a shipped row of a known model does."""
    outcome: str
    """agrees, apart, or unclear (over the tolerance, but the questions are too few to tell)."""

    @property
    def distance(self) -> float:
        """Measured less published, in points of 1."""
        return self.measured - self.published


class Decision(Artifact):
    """The gate's result: the decision matrix and its evidence."""

    model: Model
    suite: str
    limits: UseCase
    """The limits that decided: of the policy file, or of the use case."""
    verdicts: tuple[Verdict, ...]
    """The baseline's row first, then the variants in the plan's order."""
    weights: tuple[Weights, ...]
    scores: tuple[Scores, ...]
    """Each variant's scores in the last stage that it reached."""
    screens: tuple[Scores, ...] = ()
    """Each variant's scores in a tiny stage with items that tinyBenchmarks chose: the screen before the full stage."""
    policy_text: str = ""
    """The text of the policy file; empty when a use case decided."""
    plan: EvaluationPlan | None = None
    """The evaluation plan; None for a decision on saved results."""
    examples: tuple[Flip, ...] = ()
    """For each variant the lost questions whose probability changed most."""
    load_tests: tuple[LoadTest, ...] = ()
    """Of the servers that were load-tested, in the order of the verdicts; empty without the option `speed`."""
    published: tuple[PublishedComparison, ...] = ()
    """The baseline's scores beside published ones, where there are any for the same task."""
    comparisons: tuple[Comparison, ...] = ()
    """Each pair of the variants that were judged by evidence, once."""
    judged_in: str = ""
    """The earlier MLflow run of this decision; empty when this run decided."""
    attempt: Attempt | None = None
    """None if attempts are not counted: on saved results, before the record existed, or if nothing had evidence."""
    digests: Digests | None = None
    """What the verdicts were reached by; None for a decision on saved results, or by an earlier version."""

    @property
    def use_case(self) -> str:
        """The use case's name, or the policy's."""
        return self.limits.name

    @property
    def policy(self) -> str:
        """The bands and the limits of the policy, in one line."""
        return self.limits.describe_policy()

    @property
    def relative(self) -> bool:
        """Whether drops are shares of the baseline's score; otherwise they are points."""
        return self.limits.relative

    @property
    def engine(self) -> str:
        """The engine that answered, e.g. `vllm 0.32.0`, or each of several; "" when no server answered."""
        return "; ".join(dict.fromkeys(scores.engine for scores in self.scores if scores.engine))
