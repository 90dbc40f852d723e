"""The variants table."""

import pytest

from components.errors import PrerequisiteError
from components.models.variants import QUANTIZED, VARIANTS, with_baseline


def test_the_baseline_is_always_included_and_first() -> None:
    assert with_baseline(["int4-g64", "int8"]) == ["bf16", "int4-g64", "int8"]


def test_a_variant_named_twice_is_included_once() -> None:
    assert with_baseline(["int8", "bf16", "int8"]) == ["bf16", "int8"]


def test_an_unknown_variant_is_refused_with_the_valid_names() -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        with_baseline(["int3"])
    assert str(refusal.value) == f"Unknown variant 'int3'. Choose from: bf16, {', '.join(QUANTIZED)}."


def test_a_run_makes_every_variant_but_the_baseline() -> None:
    assert [row.name for row in VARIANTS.values() if not row.quantized] == ["bf16"]
    assert ["bf16", *QUANTIZED] == list(VARIANTS)
