"""The variants table."""

import pytest

from components.errors import PrerequisiteError
from components.models.variants import VARIANTS, with_baseline


def test_the_baseline_is_always_included_and_first() -> None:
    assert with_baseline(["int4-g64", "int8"]) == ["bf16", "int4-g64", "int8"]


def test_a_variant_named_twice_is_included_once() -> None:
    assert with_baseline(["int8", "bf16", "int8"]) == ["bf16", "int8"]


def test_an_unknown_variant_is_refused_with_the_valid_names() -> None:
    with pytest.raises(PrerequisiteError, match="Unknown variant 'int3'. Choose from: bf16, int8, int4-g128, int4-g64"):
        with_baseline(["int3"])


def test_only_the_baseline_is_not_quantized() -> None:
    assert [row.name for row in VARIANTS.values() if not row.quantized] == ["bf16"]
