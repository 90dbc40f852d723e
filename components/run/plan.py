"""The evaluation plan: what a run makes, what it tests, and how it is judged."""

from pydantic import Field

from components.policies.policy import UseCase
from components.storage.artifact import Artifact


class EvaluationPlan(Artifact):
    """What a run makes and asks of every variant, and how it is judged: decided once, before anything is started.

    A field with a description is an option of a run. It is declared here alone: pipelines/options.py makes the command
    line's options and the pipeline's parameters of these fields. It fills in {variants} and its like.
    """

    variants: tuple[str, ...] = Field(
        description="Comma-separated, of {variants}. The baseline {baseline} is always there."
    )
    """The baseline first."""
    suite: str = Field("demo", description="The benchmarks, one suite or several: {suites}.")
    custom: tuple[str, ...] = Field(
        (),
        description="A test set of your own: a folder with set.yaml and items.jsonl, or canopy; may be given again.",
    )
    custom_kept: tuple[str, ...] = ()
    """The run's own copies of them, which the steps after `resolve` read."""
    limit: int = Field(0, ge=0, description="Items that a task may have at most; 0 is no limit.")
    data: str = Field(
        "", description="Where rows come from: hub, embedded, or what `quantgate mirror` made [the suite's own way]."
    )
    chat_template: bool = Field(False, description="Put prompts into the model's chat template.")
    irt_parameters: str = Field(
        "", description="tinyBenchmarks.pkl, for the IRT estimates beside the means; its sha256 is checked."
    )
    irt_parameters_kept: str = ""
    """The run's own copy of them."""
    use_case: str = Field("general-chat", description="Whose limits decide: {use_cases}.")
    policy: str = Field("", description="A policy of your own, as a YAML file, in place of the use case's.")
    """The text of the file."""
    limits: UseCase | None = None
    """What decides: the policy or the use case, parsed once, by `resolve`."""
    stop_early: bool = Field(True, description="Ask a variant no more once no answer could change its verdict.")
    noise_floor: bool = Field(
        False, description="Ask the baseline twice, to learn how many answers differ by chance alone."
    )
    store: str = Field(description="Where weights are kept: a folder or s3://BUCKET/PREFIX.")
    results: str = Field(
        description="Where reports, scores and records go: a folder, or s3://BUCKET/PREFIX with a part for each run."
    )
    calibration_samples: int = Field(32, ge=1, description="Texts that the quantization sees.")
    calibration_tokens: int = Field(256, ge=16, description="Tokens to which each of them is cut.")
    ledger: bool = Field(True, description="Reuse what a model answered in an earlier run or stage.")
    skip_judged: bool = Field(False, description="End early where MLflow has this model's verdict by this very plan.")
    asked: str = ""
    """sha256 of all that is asked: tasks, their definitions and settings, and the rows."""
    judged_in: str = ""
    """The MLflow run that holds the verdict already; empty where there is none or it is not looked for."""

    @property
    def decided_limits(self) -> UseCase:
        """The limits of a plan that `resolve` has checked."""
        if self.limits is None:
            raise ValueError("The policy of this plan was never parsed: `resolve` does that.")
        return self.limits
