"""A model whose own weights are FP8 or MXFP4 is a baseline of that name, of which llm-compressor makes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.decision import decide
from quantgate.components.evidence.reference import not_judged, without_reference
from quantgate.components.models.content import check_unquantized, native_format
from quantgate.components.models.recipe_file import all_variants
from quantgate.components.models.sources import native_here
from quantgate.components.models.sources import resolve as resolve_model
from quantgate.components.models.variants import BASELINES, NATIVE, VARIANTS, variant_named
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Model, Scores, Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.storage.location import open_store
from tests.support.judged import scores_of
from tests.support.smallest_model import smallest_model


def config(method: str, **outer: Any) -> Any:
    """Reads a config.json with that quant_method."""
    return lambda _: json.dumps({"quantization_config": {"quant_method": method}, **outer})


@pytest.mark.parametrize(
    ("read", "native"),
    [
        (config("fp8"), "fp8"),
        (config("mxfp4"), "mxfp4"),
        (lambda _: json.dumps({"text_config": {"quantization_config": {"quant_method": "fp8"}}}), "fp8"),
        (config("gptq"), ""),
        (config("compressed-tensors"), ""),
        (lambda _: "{}", ""),
        (lambda _: '{"quantization_config": "fp8"}', ""),
    ],
)
def test_the_configuration_says_the_native_format(read: Any, native: str) -> None:
    assert native_format(read) == native
    assert set(NATIVE) == {"fp8", "mxfp4"}


def test_another_quantized_model_is_refused_as_before() -> None:
    check_unquantized(["config.json"], config("mxfp4"))
    with pytest.raises(PrerequisiteError, match=r"already quantized: config\.json has a `quantization_config` .*gptq"):
        check_unquantized(["config.json"], config("gptq"))


def test_a_native_model_is_stored_with_its_format(tmp_path: Path) -> None:
    folder = smallest_model(tmp_path / "model")
    (folder / "config.json").write_text(config("fp8", model_type="llama")(""))
    assert native_here(f"file:{folder}") == "fp8"
    assert native_here("hf:org/name") is None
    model = resolve_model(f"file:{folder}", open_store(str(tmp_path / "store")), tmp_path / "cache")
    assert model.native == "fp8"
    assert "native" not in Model(source="s", digest="d", uri="u", size_bytes=1).model_dump()


def planned(*variants: str, native: str | None, **changes: Any) -> EvaluationPlan:
    return EvaluationPlan(variants=variants, native=native, store="s", results="r", **changes)


def test_the_baseline_is_called_what_it_is() -> None:
    theirs = {"variant": ("theirs=hf:o/n",)}
    assert all_variants(planned("bf16", native="fp8", **theirs)) == ("fp8-native", "theirs")
    assert all_variants(planned("fp8-native", native="fp8", **theirs)) == ("fp8-native", "theirs")
    assert all_variants(planned("bf16.kv-fp8", native="mxfp4")) == ("mxfp4-native", "mxfp4-native.kv-fp8")
    assert all_variants(planned("fp8-native", native=None, **theirs)) == ("fp8-native", "theirs"), "not known yet"
    assert all_variants(planned("bf16", native="fp8", search=True, **theirs)) == ("fp8-native", "theirs")
    assert all_variants(planned("int8", native="")) == all_variants(planned("int8", native=None)) == ("bf16", "int8")
    assert [variant_named(name).scheme for name in BASELINES] == ["BF16", "FP8", "MXFP4"]
    assert not {row.name for row in NATIVE.values()} & set(VARIANTS)


def test_a_native_model_is_not_quantized_further_and_another_models_baseline_is_refused() -> None:
    message = (
        r"^The model's own weights are MXFP4 already, .* int8, int4-g64 cannot be made of it\. Compare it with"
        r" checkpoints that are quantized already \(--variants mxfp4-native --variant NAME=SOURCE\) or"
    )
    with pytest.raises(PrerequisiteError, match=message):
        all_variants(planned("int8", "int4-g64", native="mxfp4"))
    with pytest.raises(PrerequisiteError, match=r"^fp8-native is the baseline of a model whose own weights have"):
        all_variants(planned("fp8-native", "int8", native=""))
    with pytest.raises(PrerequisiteError, match=r"^mxfp4-native\.kv-fp8 is the baseline of a model"):
        all_variants(planned("mxfp4-native.kv-fp8", native="fp8"))
    with pytest.raises(PrerequisiteError, match=r"^The name fp8-native is a variant of quantgate's own"):
        all_variants(planned("int8", native="", variant=("fp8-native=hf:o/n",)))


def test_the_gate_takes_a_native_baseline_for_the_reference(tmp_path: Path) -> None:
    model = Model(source="hf:o/n", digest="d0", uri="", size_bytes=100, native="fp8")
    weights = [Weights(variant=name, baseline_digest="d0", size_bytes=50) for name in ("theirs", "fp8-native")]
    scores = [scores_of(row.variant, {"piqa": 0.7}) for row in weights]
    decision = decide(model, "guide", use_case_named("general-chat"), weights, scores)
    assert [(row.variant, row.verdict) for row in decision.verdicts] == [
        ("fp8-native", "reference"),
        ("theirs", "ship"),
    ]
    results = RunResults(str(tmp_path))
    plan = planned("fp8-native", "theirs", native="fp8").model_copy(update={"results": str(tmp_path)})
    failed = Scores(variant="fp8-native", suite="demo", stage="full", failure="No memory.")
    results.scores("fp8-native", "full").write(failed)
    assert without_reference("theirs", plan) == not_judged("No memory.")
    assert without_reference("fp8-native", plan) == ""
