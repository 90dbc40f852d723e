"""What a release manager does about a variant with that verdict."""

from components.models.variants import VARIANTS

NEXT_STEPS = {
    "reference": "Keep serving it until a variant replaces it.",
    "ship": "Serve it.",
    "monitor": "Serve it and watch the benchmarks' live counterpart.",
    "ab_test": "A/B test it against the baseline on live traffic before it replaces the baseline.",
    "inconclusive": "Ask it and the baseline more questions, or A/B test it; until then keep what serves today.",
    "not_comparable": "Evaluate it and the baseline again in one run; until then keep what serves today.",
    "failed": "Remove the cause named here and run again; until then keep what serves today.",
}
"""What a release manager does; about a rejected variant that depends on the variant."""


def next_step(verdict: str, variant: str) -> str:
    """What a release manager does about a variant with that verdict."""
    return NEXT_STEPS.get(verdict) or _milder_than(variant)


def _milder_than(variant: str) -> str:
    """What to try in place of a rejected variant: scales that fewer weights share, or wider weights."""
    row = VARIANTS.get(variant)
    if row is None or row.group_size is None:
        return "Keep serving the baseline."
    finer = [
        each.name
        for each in VARIANTS.values()
        if each.scheme == row.scheme and each.group_size is not None and each.group_size < row.group_size
    ]
    return f"Try int8 or a smaller group size ({', '.join(finer)})." if finer else "Try int8."
