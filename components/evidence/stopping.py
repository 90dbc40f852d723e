"""Early stopping: whether the gate's own tests already decide a variant's verdict."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.evidence.answers import Answers
from components.evidence.candidate import Candidate, candidate, first_difference, without_flows
from components.evidence.case import case, unmeasurable
from components.evidence.judging import settled
from components.policies.policy import UseCase
from components.run.artifacts import Scores, Weights
from components.run.attempts import Attempt


@dataclass(frozen=True)
class Stopping:
    """The inputs of the check: policy, baseline, weights, how many variants share the error, and the attempt."""

    use_case: UseCase
    baseline: Candidate
    weights: Weights
    variants: int
    attempt: Attempt | None = None

    def enough(self, scores: Scores, answers: Mapping[str, Answers]) -> bool:
        """Whether no further answer can change the verdict; after the tiny stage True only for a rejection.

        Where the tiny stage is tinyBenchmarks, the variant must be over the limit by more than the allowance for chosen
        items (components/evidence/looks.py).

        False for answers that cannot be compared with the baseline's: the gate reports the reason.
        """
        # flows come after the full stage: what the answers so far decide does not need them
        baseline = without_flows(self.baseline)
        variant = candidate(self.weights, scores, scores.suite, answers)
        if variant.failure or baseline.failure or first_difference(baseline, variant):
            return False
        if unmeasurable(self.use_case, baseline.answers, variant.answers):
            return False
        evidence = case(self.use_case, baseline, variant, self.attempt)
        return settled(evidence, self.variants, only_reject=scores.look == 1)
