"""What a run can show, in four or five lines: before it starts, or before its saved answers are judged."""

import math
from collections.abc import Mapping

from quantgate.components.evidence.assumed_answers import Assumed
from quantgate.components.evidence.change import about
from quantgate.components.evidence.prospects import VERDICT_NAMES, Need, Outlook, Prospect, outlook

DRAWS = 200
"""Simulated runs of each variant: a chance has a standard error of up to 3.5 points, and all takes about a second."""
SHOWN = 0.005
"""Smaller chances are left out: they would read 0 %."""


def forecast(prospect: Prospect) -> str:
    """What a copy of the baseline, a lossless INT8 and a typical INT4 would get, and how many questions are enough."""
    shown = outlook(prospect, draws=DRAWS)
    variants = f"{prospect.variants} variant{'' if prospect.variants == 1 else 's'}"
    best = "" if prospect.best == prospect.copy else f", {_named(prospect.best)} if the baseline had every answer right"
    return "\n".join(
        [
            f"What {prospect.items:,} questions can show for {prospect.use_case.name} and {variants}, by simulation:",
            f"  a copy of the baseline ({_scores(prospect)}): {_named(prospect.copy)}{best}",
            *(f"  {describe(variant)}: {_chances(chances)}" for variant, chances in shown.chances),
            f"  {_enough(shown)}",
        ]
    )


def describe(assumed: Assumed) -> str:
    """`typical INT4 (8 % of the answers flip, 1 % of the score is lost)`."""
    lost = f", {100 * assumed.drop:g} % of the score is lost" if assumed.drop else ""
    return f"{assumed.name} ({100 * assumed.flips:g} % of the answers flip{lost})"


def _enough(shown: Outlook) -> str:
    """Which limits have too few questions; if none has, how many the closest limit needs."""
    variant, there = shown.chances[0][0].name, "answered" if shown.prospect.measured else "planned"
    hardest_first = sorted(shown.needs, key=_lack, reverse=True)
    lacking = [need for need in hardest_first if not need.is_met]
    words = "too few for a {} to pass 4 times in 5" if lacking else "enough for a {} to pass each limit 4 times in 5"
    limits = "; ".join(
        f"{need.what} needs {how_many(need)} ({need.planned:,} {there})" for need in (lacking or hardest_first[:1])
    )
    left_out = f". Not predicted: {', '.join(shown.prospect.left_out)}" if shown.prospect.left_out else ""
    return f"{words.format(variant)}: {limits}{left_out}"


def _lack(need: Need) -> float:
    """The needed questions as a multiple of the planned ones."""
    return math.inf if need.enough is None else need.enough / need.planned


def how_many(need: Need) -> str:
    """`about 1,600, or 16 answers to each`: what is enough for the limit."""
    enough = need.enough
    number = "more than any number" if enough is None else f"{'about ' if enough > 100 else ''}{about(enough)}"
    return number if need.answers is None else f"{number}, or {need.answers} answers to each"


def _scores(prospect: Prospect) -> str:
    """`scores of 60 % assumed`."""
    ends = min(task.score for task in prospect.tasks), max(task.score for task in prospect.tasks)
    shown = " to ".join(dict.fromkeys(f"{100 * score:.0f}" for score in ends))
    return f"scores of {shown} %{'' if prospect.measured else ' assumed'}"


def _named(verdict: str) -> str:
    return VERDICT_NAMES.get(verdict, verdict)


def _chances(chances: Mapping[str, float]) -> str:
    """`ship 74 %, inconclusive 24 %, monitor 2 %`."""
    likely = sorted(((share, verdict) for verdict, share in chances.items() if share > SHOWN), reverse=True)
    return ", ".join(f"{_named(verdict)} {100 * share:.0f} %" for share, verdict in likely)
