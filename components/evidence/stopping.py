"""Early stopping: whether the gate's own tests already decide a variant's verdict."""

from collections.abc import Mapping
from dataclasses import dataclass

from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.candidate import Candidate, candidate, first_difference, without_flows
from quantgate.components.evidence.case import case, unmeasurable
from quantgate.components.evidence.judging import settled
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import Scores, Weights, is_flow_task
from quantgate.components.run.attempts import Attempt


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
        return settled(evidence, self.variants, only_reject=scores.look == 1 or self.flows_come)

    @property
    def flows_come(self) -> bool:
        """Whether limits on flows will be tested later, which an early look would give only its share of the error.

        Then a variant stops only for a rejection. A limit of 0 needs no error: one lost case decides it.
        """
        policy = self.use_case
        limits = (policy.max_drop, policy.max_cluster_drop, policy.max_longer_answers, policy.max_cut_answers)
        limited = any(is_flow_task(name) and limit for by_task in limits for name, limit in by_task.items())
        return limited and any(map(is_flow_task, self.baseline.answers))
