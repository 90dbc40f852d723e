"""The evaluation plan: what a run makes, what it tests, and how it is judged."""

from components.policies.policy import UseCase
from components.storage.artifact import Artifact


class EvaluationPlan(Artifact):
    """What a run makes and asks of every variant, and how it is judged: decided once, before anything is started."""

    variants: tuple[str, ...]
    """The baseline first."""
    suite: str
    """A suite's name, or several: `openllm,code`."""
    custom: tuple[str, ...] = ()
    """Folders or s3:// prefixes of test sets of one's own."""
    custom_kept: tuple[str, ...] = ()
    """The run's own copies of them, which the steps after `resolve` read."""
    limit: int = 0
    """Items that a task may have at most; 0 is no limit."""
    data: str = ""
    """Where rows come from: `embedded`, or a mirror."""
    chat_template: bool = False
    """Whether prompts are put into the model's chat template."""
    irt_parameters: str = ""
    """tinyBenchmarks' published parameters, a file or s3:// address; empty: the scores of its tasks are plain means."""
    irt_parameters_kept: str = ""
    """The run's own copy of them."""
    use_case: str = ""
    policy: str = ""
    """The text of a policy file, in place of the use case's."""
    limits: UseCase | None = None
    """What decides: the policy or the use case, parsed once, by `resolve`."""
    stop_early: bool = True
    noise_floor: bool = False
    ledger: bool = True
    skip_judged: bool = False
    """Whether a base model that has a verdict by this very plan is not judged again."""
    calibration_samples: int = 32
    calibration_tokens: int = 256
    store: str
    results: str
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
