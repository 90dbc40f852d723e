"""A search: the variants are tried from the smallest up, until one may be promoted; the larger ones are left out.

After each variant the gate's own verdicts are computed, as they will be if no further variant is tried. So a search
ends with the verdict that the gate gives in the end, unless another run is counted as an attempt meanwhile.

All variants that the search may try share the policy's error by Holm's method (S. Holm, Scandinavian J. of Statistics 6
(1979) 65-70). Those that it leaves out have the p-value 1. A p-value that is only made larger stays valid, whatever
decides which ones are made larger. So Holm's method keeps its promise for a search that ends as it likes: with the
policy's confidence no variant passes that must not. Until one passes, each of m variants may use 1 / m of the error.

The order gives no variant more than that. A fixed sequence, which tests each at the full error (W. Maurer, L. Hothorn
and W. Lehmacher, in J. Vollmar (ed.), Biometrie in der chemisch-pharmazeutischen Industrie 6 (1995) 3-18), must end
with the first that does not pass. A search goes on after it, so m bad variants would have m chances at the full error.
`benchmarks/search_errors.py` measures both.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.decision import verdicts_of
from quantgate.components.evidence.saved_answers import saved_candidate
from quantgate.components.evidence.speed_limits import by_speed
from quantgate.components.evidence.unscored_items import with_scored_items
from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.attempts import Attempt, AttemptRecord, expected_attempt
from quantgate.components.run.evidence_digests import policy_digest
from quantgate.components.run.load_results import LoadTest
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Verdict


def needless(variant: str, plan: EvaluationPlan) -> str:
    """Why the variant is not tried: a smaller one of the search may be promoted; empty if it must be tried."""
    if not plan.search or variant == plan.baseline:
        return ""
    for smaller in plan.variants[1 : plan.variants.index(variant)]:
        verdict = RunResults(plan.results).variant(smaller).verdict.read(Verdict)
        if verdict and verdict.verdict in plan.decided_limits.promotes:
            return f"Not tried: {smaller} is smaller, and its verdict is {verdict.verdict}."
    return ""


def judge(variant: str, plan: EvaluationPlan) -> Verdict:
    """The variant's verdict if no further variant is tried; also written to the results, where `needless` reads it."""
    results = RunResults(plan.results)
    with tempfile.TemporaryDirectory() as scratch:
        candidates = [
            saved_candidate(name, plan.results, Path(scratch) / name) or _untried(name) for name in plan.variants
        ]
    candidates = with_scored_items(candidates)
    # as the gate looks it up: a variant that is not made has no digest
    digests = {row.name: row.weights.digest for row in candidates}
    attempt = expected_in(plan, candidates[0].weights.digest, digests)
    verdicts, _ = verdicts_of(plan.decided_limits, candidates, attempt)
    by_answers = next(verdict for verdict in verdicts if verdict.variant == variant)
    loads = (results.load_test(name).read(LoadTest) for name in (plan.variants[0], variant))
    verdict = by_speed(by_answers, plan.decided_limits, *loads)
    results.variant(variant).verdict.write(verdict)
    return verdict


def expected_in(plan: EvaluationPlan, baseline_digest: str, weights: Mapping[str, str]) -> Attempt:
    """The attempt that the gate will probably count; `weights` are the digests known so far, by variant."""
    known = AttemptRecord(plan.store, baseline_digest, plan.decided_limits.name).read()
    return expected_attempt(known, policy_digest(plan.decided_limits), plan.asked, weights)


def _untried(name: str) -> Candidate:
    reason = "It is not judged yet."
    weights = Weights(variant=name, baseline_digest="", skipped=True, failure=reason)
    return Candidate(weights, Scores(variant=name, suite="", stage="", failure=reason))
