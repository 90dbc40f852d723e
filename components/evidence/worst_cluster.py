"""The limit on the worst cluster of a task: a check that a few ruined subjects of MMLU do not hide in its mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from quantgate.components.evidence import margin
from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.further_items import finite, further, is_decided
from quantgate.components.evidence.margin import Pairs, Scale


@dataclass(frozen=True)
class PairedCluster:
    """One cluster's answers, paired, as independent items."""

    name: str
    pairs: Pairs


@dataclass(frozen=True)
class WorstClusterTest:
    """The test of the largest drop of any cluster.

    It is within the limit if every cluster is: all must show it, which needs no correction. It is beyond the limit if
    one cluster is; the clusters share that error probability (Bonferroni). Both are proven if each cluster's bounds
    hold; they are those of a task without clusters.
    """

    clusters: Sequence[PairedCluster]
    """At least one, each with a drop: a relative drop needs a baseline above 0."""
    scale: Scale
    informative: bool = True
    unanswered: int = 0
    """How many clusters have no answers yet, because the variant stopped early: nothing bounds their drops."""

    @cached_property
    def worst(self) -> PairedCluster:
        """The cluster with the largest measured drop."""
        return max(self.clusters, key=self._drop)

    @property
    def estimate(self) -> float:
        """The largest measured drop."""
        return self._drop(self.worst)

    def decidable(self, _limit: float) -> bool:
        """Always True: this test has no noise floor."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "a cluster's drop is the limit or more"."""
        if not self.informative or self.unanswered:
            return 1.0
        return max(margin.p_within([cluster.pairs], self.scale, limit) for cluster in self.clusters)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "every cluster's drop is the limit or less"."""
        smallest = min(margin.p_beyond([cluster.pairs], self.scale, limit) for cluster in self.clusters)
        return min(1.0, smallest * len(self.clusters))

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound of every cluster's drop; None if there is none."""
        if not self.informative:
            return None
        if self.unanswered:
            return margin.LARGEST_DROP
        bound = -margin.LARGEST_GAIN
        for cluster in self._by_drop():
            if bound <= self._drop(cluster) or margin.p_within([cluster.pairs], self.scale, bound) > alpha:
                bound = margin.upper([cluster.pairs], self.scale, alpha)
        return bound

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound of the largest drop; None if there is none."""
        share = alpha / len(self.clusters)
        return finite(max(margin.lower([cluster.pairs], self.scale, share) for cluster in self._by_drop()))

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        if not self.informative or self.unanswered:
            return None
        items = sum(cluster.pairs.items for cluster in self.clusters)
        return further(lambda times: is_decided(self.times(times), limit, alpha), items)

    def times(self, factor: float) -> "WorstClusterTest":
        """The test on `factor` times as many items in each cluster."""
        return replace(
            self, clusters=[replace(cluster, pairs=cluster.pairs.times(factor)) for cluster in self.clusters]
        )

    def _by_drop(self) -> list[PairedCluster]:
        return sorted(self.clusters, key=self._drop, reverse=True)

    def _drop(self, cluster: PairedCluster) -> float:
        return margin.drop([cluster.pairs], self.scale) or 0.0


def worst_cluster_test(
    baseline: Answers, variant: Answers, scale: Scale, *, informative: bool = True
) -> WorstClusterTest | None:
    """The test on the same items of two models; None if the task has no clusters.

    An item without cluster is left out, and so is a cluster without a relative drop, because the baseline scores 0.
    """
    paired = baseline.only(variant.table["id"])
    clusters = [
        PairedCluster(name, margin.pairs(paired.scores[places], variant.scores[places]))
        for name, places in paired.places_by_cluster().items()
    ]
    clusters = [cluster for cluster in clusters if margin.drop([cluster.pairs], scale) is not None]
    unanswered = len(baseline.places_by_cluster()) - len(paired.places_by_cluster())
    return WorstClusterTest(clusters, scale, informative, unanswered) if clusters else None
