"""The limits of a policy as statistical tests on one variant's and the baseline's answers."""

import math
from dataclasses import dataclass, replace

from components.evidence import flips, margin
from components.evidence.further_items import LimitTest, finite, further, is_decided
from components.evidence.margin import ABSOLUTE, Pairs
from components.policies.policy import MOST_NATS


@dataclass(frozen=True)
class MeanTest:
    """The test of the logarithm of the perplexity ratio: a t-test over documents.

    It assumes that the mean over the documents is about normal. That is not proven and not simulated, and it fails if
    few documents hold most of the damage.
    """

    log_ratio: flips.Mean
    items: int
    informative: bool = True

    @property
    def estimate(self) -> float:
        """The measured logarithm of the perplexity ratio."""
        return self.log_ratio.mean

    def decidable(self, _limit: float) -> bool:
        """Always True: this test has no noise floor."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""
        return self.log_ratio.p_within(limit)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"."""
        return self.log_ratio.p_beyond(limit)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound."""
        return finite(self.log_ratio.upper(alpha))

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return finite(self.log_ratio.lower(alpha))

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        return further(lambda times: is_decided(self.times(times), limit, alpha), self.items)

    def times(self, factor: float) -> "MeanTest":
        """The test on `factor` times as many documents like these."""
        log_ratio = replace(
            self.log_ratio, error=self.log_ratio.error / math.sqrt(factor), freedom=self.log_ratio.freedom * factor
        )
        return replace(self, log_ratio=log_ratio)


@dataclass(frozen=True)
class ClippedTest:
    """The test of the mean of bounded values: of each item's KL divergence, clipped to `MOST_NATS`, or cut answers.

    Divergences are too skewed for a t-test. The mean of clipped, bounded values has the bounds of a drop, which are a
    conjecture for fractional values (see `margin`). What is clipped is no evidence: if the mean before clipping is over
    a limit, the limit is never shown to be kept.
    """

    shares: Pairs
    """Each item's divergence as a share of `most`, as the baseline's score; the variant's score is 0."""
    most: float = MOST_NATS
    """The largest possible value of an item."""
    informative: bool = True
    unclipped: float = 0.0
    """The mean before clipping; 0 where nothing is clipped."""

    @property
    def estimate(self) -> float:
        """The mean, before clipping."""
        return max(self.unclipped, self.most * (margin.drop([self.shares], ABSOLUTE) or 0.0))

    def decidable(self, _limit: float) -> bool:
        """Always True: this test has no noise floor."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"; 1 if the mean before clipping is over the limit."""
        return 1.0 if self.unclipped > limit else margin.p_within([self.shares], ABSOLUTE, limit / self.most)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"; no item's value is below 0."""
        return margin.p_above(self.shares, limit / self.most)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound, never below the mean before clipping."""
        return max(self.unclipped, self.most * margin.upper([self.shares], ABSOLUTE, alpha))

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return self.most * margin.lower_of_mean(self.shares, alpha)

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        return further(
            lambda times: is_decided(replace(self, shares=self.shares.times(times)), limit, alpha), self.shares.items
        )


@dataclass(frozen=True)
class Limit:
    """One limit of the policy and its test; the limit on a perplexity ratio is a logarithm."""

    what: str
    """The task's name, or `average`."""
    kind: str
    """`drop`, `cluster`, `divergence`, `perplexity`, `length`, `cut` or `loss`."""
    limit: float
    test: LimitTest
