"""The variants table."""

import json
from pathlib import Path

import pytest
import yaml

from components.errors import PrerequisiteError
from components.models.variants import DEFAULT, VARIANTS, Variant, with_baseline
from components.promote.inference_service import write_patch
from components.promote.promotion import Promotion
from components.run.artifacts import Verdict, Weights
from components.servers.before_start import check_kernels


def test_the_baseline_is_always_included_and_first() -> None:
    assert with_baseline(["int4-g64", "int8"]) == ["bf16", "int4-g64", "int8"]


def test_a_variant_named_twice_is_included_once() -> None:
    assert with_baseline(["int8", "bf16", "int8"]) == ["bf16", "int8"]


def test_an_unknown_variant_is_refused_with_the_valid_names() -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        with_baseline(["int3"])
    assert str(refusal.value) == f"Unknown variant 'int3'. Choose from: {', '.join(VARIANTS)}."


def test_a_run_makes_three_variants_unless_it_names_others() -> None:
    assert [row.name for row in VARIANTS.values() if not row.quantized] == ["bf16"]
    assert DEFAULT == ["int8", "int4-g128", "int4-g64"]


@pytest.mark.parametrize("row", [row for row in VARIANTS.values() if row.quantized], ids=lambda row: str(row.name))
def test_a_name_says_bits_group_size_and_method(row: Variant) -> None:
    assert (
        row.name.removeprefix("nv").removeprefix("mx").startswith(f"{'int' if row.number == 'int' else 'fp'}{row.bits}")
    )
    parts = row.name.split("-")[1:]
    assert (f"g{row.group_size}" in parts) is (row.number == "int" and row.group_size is not None)
    assert ("asym" in parts) is not row.symmetric
    assert ("mse" in parts) is (row.observer == "mse")
    assert ("awq" in parts, "smooth" in parts) == (row.transform == "AWQ", row.transform == "SmoothQuant")


def test_a_variant_without_a_kernel_for_cpus_is_refused_where_vllm_has_no_gpu() -> None:
    check_kernels(["bf16", "int8", "int8-w8a16"], on_cpu=False)
    check_kernels(["bf16", "int8"], on_cpu=True)
    with pytest.raises(PrerequisiteError, match=r"^int8-w8a16: vLLM's CPU build has no kernel for it\. Leave it out"):
        check_kernels(["bf16", "int8", "int8-w8a16"], on_cpu=True)


@pytest.mark.fault(
    "verdicts", "a variant's name has a line break", "refused where it is read; KServe's patch stays one value"
)
def test_a_name_with_a_line_break_is_refused_and_writes_nothing_into_kserves_patch(tmp_path: Path) -> None:
    name = "int8\nspec: {predictor: {model: {storageUri: s3://evil/weights}}}"
    for kind in (Verdict, Weights):
        with pytest.raises(PrerequisiteError, match=r"The variant's name 'int8\\nspec: .* Rename its folder\."):
            kind.model_validate_json(json.dumps({"variant": name}))
    promotion = Promotion(model="m\n#", champion="3", variant=name, verdict="ship", weights="s3://b/int8", forced=name)
    write_patch(promotion, "tutor", tmp_path / "patch.yaml")
    patch = yaml.safe_load((tmp_path / "patch.yaml").read_text(encoding="utf-8"))
    assert patch["spec"] == {"predictor": {"model": {"storageUri": "s3://b/int8"}}}
    assert patch["metadata"]["annotations"] == {
        "quantgate/model": "m\n#",
        "quantgate/version": "3",
        "quantgate/variant": name,
        "quantgate/verdict": "ship",
        "quantgate/forced": name,
    }
