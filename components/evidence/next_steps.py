"""The next step for each verdict, for a release manager."""

from dataclasses import replace

from quantgate.components.models.variants import VARIANTS, Variant, known_variant

NEXT_STEPS = {
    "reference": "Keep serving the baseline until a variant replaces it.",
    "ship": "Serve the variant.",
    "monitor": "Serve the variant and monitor its quality on live traffic.",
    "ab_test": "A/B test the variant against the baseline on live traffic before it replaces the baseline.",
    "inconclusive": "Evaluate more questions, or A/B test the variant; until then keep serving the current model.",
    "not_comparable": "Evaluate the variant and the baseline in one run; until then keep serving the current model.",
    "skipped": "Nothing to do: a smaller variant may replace the baseline.",
    "failed": "Fix the reported cause and run again; until then keep serving the current model.",
}
"""The next step by verdict; `next_step` chooses that of a rejected variant."""


def next_step(verdict: str, variant: str) -> str:
    """The sentence that says what to do with a variant that got this verdict."""
    return NEXT_STEPS.get(verdict) or _step_after_rejection(variant)


def _step_after_rejection(variant: str) -> str:
    """The variants to try after a rejection: a smaller group size, or more bits per weight."""
    row = known_variant(variant)
    if row and row.kv_cache_dtype:
        return f"Try {row.stored.name}: the same weights, with keys and values in the model's own type."
    if row is None or row.group_size is None:
        return "Keep serving the baseline."
    sizes = {other.group_size: other.name for other in VARIANTS.values() if _but_groups(other) == _but_groups(row)}
    finer = [sizes[size] for size in sorted((size for size in sizes if size and size < row.group_size), reverse=True)]
    return f"Try int8 or a smaller group size ({', '.join(finer)})." if finer else "Try int8."


def _but_groups(row: Variant) -> Variant:
    """What two variants have in common that differ in the size of their groups alone."""
    return replace(row, name="", group_size=None, default=False, seed=0, calibration=0)
