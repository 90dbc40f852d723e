"""Quantize a very small model with the real llm-compressor."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.sources import resolve
from quantgate.components.models.variants import VARIANTS, variant_named, with_seed
from quantgate.components.quantize import step as quantize_step
from quantgate.components.quantize.quantization import checked_texts, made_before, quantize, recipe_key
from quantgate.components.run import machine, progress
from quantgate.components.run.artifacts import Model, Weights
from quantgate.components.run.calibration import Calibration
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from quantgate.components.run.results import RunResults
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import open_store
from tests.support.calibrated import embedded_calibration
from tests.support.cpu import cpu_with
from tests.support.tiny_model import small_llama

if TYPE_CHECKING:
    import torch

CALIBRATION = Calibration(samples=4, tokens=32)
needs_torch = pytest.mark.slow(reason="PyTorch takes seconds to import")


def make(variant: str, baseline: Model, folder: Path) -> Weights:
    step = Step(folder / "progress.jsonl", "quantize", variant)
    calibration = embedded_calibration(folder / "run", CALIBRATION.samples, CALIBRATION.tokens)
    store = open_store(str(folder / "store"))
    return quantize(variant_named(variant), baseline, store, folder / "run", step, calibration)


@pytest.fixture
def baseline(tiny_model: Path, tmp_path: Path) -> Model:
    """The small model in a separate store."""
    return resolve(f"file:{tiny_model}", open_store(str(tmp_path / "store")), cache_dir())


def test_the_baseline_uses_the_models_own_weights(baseline: Model, tmp_path: Path) -> None:
    weights = make("bf16", baseline, tmp_path)
    assert (weights.digest, weights.uri, weights.size_bytes) == (baseline.digest, baseline.uri, baseline.size_bytes)
    assert (weights.scheme, weights.algorithm, weights.failure) == ("BF16", "", "")


@pytest.mark.slow
def test_a_variant_is_made_once_and_then_reused(baseline: Model, tmp_path: Path) -> None:
    weights = make("int4-g64", baseline, tmp_path)
    assert weights.failure == ""
    assert weights.layout == "g64 on all 14 layers"
    config = json.loads((Path(weights.uri) / "config.json").read_text())
    assert config["quantization_config"]["format"] == "pack-quantized"
    assert weights.size_bytes < baseline.size_bytes
    events, _ = progress.read(tmp_path / "progress.jsonl")
    counted = [event for event in events if event.total]
    assert [event.total for event in counted[:1]] == [3], "two layers, and what follows them"
    assert all(0 < event.done <= event.total for event in counted)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["given", "logs"]

    again = make("int4-g64", baseline, tmp_path)
    assert again == weights.model_copy(update={"reused": True})


@pytest.mark.slow
def test_a_mixed_variant_is_built_from_the_errors_of_the_row_without_eight_bits(
    baseline: Model, tmp_path: Path
) -> None:
    weights = make("int4-g128-mixed", baseline, tmp_path)
    assert weights.failure == ""
    assert weights.layout.startswith("8 bits on ")
    even = make("int4-g128", baseline, tmp_path)
    assert even.reused, "it was made for its errors, and is a variant of its own"
    assert even.size_bytes < weights.size_bytes < make("int8", baseline, tmp_path).size_bytes
    (errors,) = (tmp_path / "store" / "recipes").glob(f"{recipe_of('int4-g128', baseline, tmp_path)}.errors.json")
    errors.unlink()
    (tmp_path / "store" / "recipes" / f"{recipe_of('int4-g128-mixed', baseline, tmp_path)}.json").unlink()
    lost = make("int4-g128-mixed", baseline, tmp_path)
    assert lost.failure == f"{errors} is missing. Delete the JSON file beside it, and run it again."


def recipe_of(name: str, baseline: Model, folder: Path) -> str:
    calibration = embedded_calibration(folder / "run", CALIBRATION.samples, CALIBRATION.tokens)
    return recipe_key(variant_named(name), baseline, calibration)


GREEDY_WITH_TEMPERATURE = '{"do_sample": false, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [0, 7]}'


@pytest.mark.fault(
    "inputs",
    "a model's generation_config is one that transformers loads but does not save",
    "the variant is made, with the model's own file unchanged",
)
@pytest.mark.slow
@pytest.mark.parametrize("content", [GREEDY_WITH_TEMPERATURE, None])
def test_a_variant_has_the_models_own_generation_config(tiny_model: Path, tmp_path: Path, content: str | None) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    if content is not None:
        (folder / "generation_config.json").write_text(content)
    weights = make("int8", resolve(str(folder), open_store(str(tmp_path / "store")), cache_dir()), tmp_path)
    assert weights.failure == ""
    variants_own = Path(weights.uri) / "generation_config.json"
    assert (variants_own.read_text() if variants_own.exists() else None) == content


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["int8", "int4-g64"])
def test_a_cpu_without_16_bits_quantizes_in_float32_and_stores_the_same_types(
    baseline: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    by_cpu = {}
    for flags in ("avx512_bf16", "avx2"):
        (tmp_path / flags).mkdir()
        monkeypatch.setattr(machine, "CPUINFO", cpu_with(flags, tmp_path / flags))
        by_cpu[flags] = make(variant, baseline, tmp_path / flags)
    assert [weights.failure for weights in by_cpu.values()] == ["", ""]
    assert [weights.algorithm for weights in by_cpu.values()] == ["GPTQ", "GPTQ in float32"]
    own, slow = (tensors_of(weights) for weights in by_cpu.values())
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in slow.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in own.items()
    }
    configs = [json.loads((Path(weights.uri) / "config.json").read_text()) for weights in by_cpu.values()]
    assert configs[0] == configs[1]
    embedding = "model.embed_tokens.weight"
    assert own[embedding].equal(slow[embedding]), "what is not quantized is the same to the bit"
    packed = next(name for name in own if name.endswith(("weight_packed", "q_proj.weight")))
    assert not own[packed].equal(slow[packed]), "float32 was really computed in"


def tensors_of(weights: Weights) -> "dict[str, torch.Tensor]":
    from safetensors.torch import load_file

    return load_file(Path(weights.uri) / "model.safetensors")


@pytest.mark.slow
def test_a_width_that_no_group_fits_fails_the_variant(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    odd = tmp_path / "odd"
    config = small_llama(vocab_size=300, hidden_size=72, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(odd)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(odd)
    model = resolve(f"file:{odd}", open_store(str(tmp_path / "store")), cache_dir())
    weights = make("int4-g64", model, tmp_path)
    assert "their input width (72) is not a multiple" in weights.failure
    assert "Use int8" in weights.failure
    assert (weights.digest, weights.uri) == ("", "")
    assert not (tmp_path / "store" / "recipes").exists()


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_refused_before_llm_compressor_starts(
    baseline: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "memory.max")
    weights = make("int8", baseline, tmp_path)
    assert weights.failure.startswith("llm-compressor needs about 0.6 GiB of memory (process 0.6, ")
    assert not RunResults(str(tmp_path / "run")).log("quantize-int8").exists()


@pytest.mark.slow
def test_a_step_on_a_cluster_reads_the_calibration_texts_from_the_bucket(
    baseline: Model, tmp_path: Path, s3_location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration, results = embedded_calibration(tmp_path / "here", 4, 32), f"{s3_location}/run"
    RunResults(results).calibration_texts.put(RunResults(str(tmp_path / "here")).calibration_texts.path)
    store, files = str(tmp_path / "store"), [str(tmp_path / f"{name}.json") for name in ("model", "plan", "weights")]
    plan = EvaluationPlan(variants=("bf16", "int8"), store=store, results=results, calibration_set=calibration)
    baseline.write(files[0])
    plan.write(files[1])
    (tmp_path / "memory.max").write_text("1000000\n")  # ends the step once it has the texts
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "memory.max")
    quantize_step.quantize("int8", *files)
    assert Weights.read(files[2]).failure.startswith("llm-compressor needs about")
    assert Weights.read(files[2]).calibration_sha256 == calibration.sha256
    plan.model_copy(update={"results": f"{s3_location}/other"}).write(files[1])
    quantize_step.quantize("int8", *files)
    assert "calibration.jsonl, the calibration texts, is gone. " in Weights.read(files[2]).failure


def test_weights_are_named_after_all_their_inputs(tmp_path: Path) -> None:
    model = Model(source="x", digest="1", uri="u", size_bytes=1)
    key = recipe_key(VARIANTS["int8"], model, CALIBRATION)
    assert key == recipe_key(VARIANTS["int8"], model.model_copy(update={"source": "y"}), CALIBRATION)
    assert key != recipe_key(VARIANTS["int4-g64"], model, CALIBRATION)
    assert key != recipe_key(VARIANTS["int8"], model.model_copy(update={"digest": "2"}), CALIBRATION)
    same = CALIBRATION.model_copy(update={"name": "texts.jsonl", "note": "another place"})
    assert key == recipe_key(VARIANTS["int8"], model, same)
    for change in ({"samples": 5}, {"tokens": 31}, {"sha256": "1"}):
        assert key != recipe_key(VARIANTS["int8"], model, CALIBRATION.model_copy(update=change))
    assert key != recipe_key(with_seed(VARIANTS["int8"], 1), model, CALIBRATION)


@pytest.mark.fault(
    "weights", "the calibration texts of a run are gone, or others than it chose", "the variant fails with the file"
)
def test_other_calibration_texts_than_the_chosen_ones_are_refused(tmp_path: Path) -> None:
    calibration, results = embedded_calibration(tmp_path, 2, 32), RunResults(str(tmp_path))
    file = results.calibration_texts.path
    assert checked_texts(results, calibration) == file
    file.write_text(file.read_text(encoding="utf-8") + "{}", encoding="utf-8")
    with pytest.raises(PrerequisiteError, match="has other bytes than when the run began"):
        checked_texts(results, calibration)
    file.unlink()
    with pytest.raises(PrerequisiteError, match=r"calibration.jsonl, the calibration texts, is gone\."):
        checked_texts(results, calibration)


@pytest.mark.fault("weights", "the store was moved", "its variants are used again at the new address")
def test_a_moved_stores_variants_are_found_at_its_new_address(tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model, old = Model(source="x", digest="1", uri="u", size_bytes=1), open_store(str(tmp_path / "old"))
    weights = Weights(variant="int8", baseline_digest="1", digest="d1", uri=old.put_folder(folder, "models/d1", "d1"))
    calibration = embedded_calibration(tmp_path / "run", CALIBRATION.samples, CALIBRATION.tokens)
    old.put_text(weights.model_dump_json(), f"recipes/{recipe_key(VARIANTS['int8'], model, calibration)}.json")
    (tmp_path / "old").rename(tmp_path / "store")
    assert make("int8", model, tmp_path).uri == str(tmp_path / "store" / "models" / "d1")


def test_a_variant_that_differs_in_how_it_is_served_shares_the_weights_of_its_row(tmp_path: Path) -> None:
    folder, store = tmp_path / "quantized", open_store(str(tmp_path / "store"))
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model = Model(source="x", digest="1", uri="u", size_bytes=7)
    stored = Weights(variant="int8", baseline_digest="1", digest="d1", uri=store.put_folder(folder, "models/d1", "d1"))
    calibration = embedded_calibration(tmp_path / "run", CALIBRATION.samples, CALIBRATION.tokens)
    store.put_text(stored.model_dump_json(), f"recipes/{recipe_key(VARIANTS['int8'], model, calibration)}.json")
    for name, digest in (("int8.kv-fp8", "d1"), ("bf16.kv-fp8", "1")):
        weights = make(name, model, tmp_path)
        assert (weights.variant, weights.digest, weights.kv_cache_dtype) == (name, digest, "fp8")
        assert weights.server_options == ("--kv-cache-dtype", "fp8")
    assert [path.name for path in (tmp_path / "store" / "recipes").iterdir()] == [
        f"{recipe_key(VARIANTS['int8'], model, calibration)}.json"
    ]
    assert (make("int8", model, tmp_path).server_options, make("bf16", model, tmp_path).server_options) == ((), ())


@pytest.mark.fault(
    "weights",
    "the stored recipe of a variant is damaged, or names another variant, another model, or the base model itself",
    "it does not count: the variant is made again",
)
@pytest.mark.parametrize(
    "other", [{"variant": "int4-g64"}, {"baseline_digest": "2"}, {"digest": "1"}, {"digest": "d2"}, {"size": "small"}]
)
def test_another_variants_recipe_is_not_used(tmp_path: Path, other: dict[str, str]) -> None:
    folder, store = tmp_path / "quantized", open_store(str(tmp_path / "store"))
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for digest in ("1", "d1"):
        store.put_folder(folder, f"models/{digest}", digest)
    model = Model(source="x", digest="1", uri="u", size_bytes=1)
    content = Weights(variant="int8", baseline_digest="1", digest="d1").model_dump()
    store.put_text(json.dumps(content), "recipe")
    assert made_before(store, "recipe", VARIANTS["int8"], model)
    store.put_text(json.dumps(content | other), "recipe")
    assert made_before(store, "recipe", VARIANTS["int8"], model) is None
