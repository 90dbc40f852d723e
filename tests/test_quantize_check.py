"""The check of a checkpoint of the real llm-compressor: each test makes one thing in it wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.layers import Layout
from quantgate.components.models.sources import resolve
from quantgate.components.models.tokenizer_files import copy_beside_weights
from quantgate.components.models.variants import VARIANTS, Variant, variant_named
from quantgate.components.quantize.check import check_compressed, worst
from quantgate.components.quantize.quantization import layouts_in, quantize, slow_16_bits
from quantgate.components.quantize.rotation import check_rotates
from quantgate.components.run.progress import Step
from quantgate.components.run.results import RunResults
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import open_store
from tests.support.calibrated import embedded_calibration
from tests.support.tiny_model import small_llama

if TYPE_CHECKING:
    import torch

    Change = Callable[[dict[str, torch.Tensor]], None]

pytestmark = pytest.mark.slow  # imports PyTorch and quantizes
OFFLINE = {"HF_HUB_OFFLINE": "1"}
FIRST, SECOND = "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"
KINDS = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
NAMES = [f"model.layers.{layer}.{kind}" for layer in range(2) for kind in KINDS]
GROUPED, BY_CHANNEL = dict.fromkeys(NAMES, Layout(4, 64)), dict.fromkeys(NAMES, Layout(8, None, packed=False))


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints of two variants by name, and the model's own folder."""
    folder = tmp_path_factory.mktemp("made")
    store = open_store(str(folder / "store"))
    model = resolve(f"file:{tiny_model}", store, cache_dir())
    folders = {"bf16": Path(model.uri)}
    for name in ("int8", "int4-g64"):
        step = Step(folder / "progress.jsonl", "quantize", name)
        calibration = embedded_calibration(folder / "run", 8, 16)
        weights = quantize(VARIANTS[name], model, store, folder / "run", step, calibration)
        assert weights.failure == ""
        assert list(weights.largest_errors.values()) == sorted(weights.largest_errors.values(), reverse=True)
        folders[name] = Path(weights.uri)
    return folders


@pytest.fixture
def checkpoint(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the INT4 checkpoint to change."""
    return shutil.copytree(made["int4-g64"], tmp_path / "checkpoint")


def rewrite(folder: Path, change: "Change") -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(("variant", "layers"), [("int8", BY_CHANNEL), ("int4-g64", GROUPED)])
def test_the_error_of_each_layer_is_that_of_its_number_of_bits(
    made: dict[str, Path], variant: str, layers: dict[str, Layout]
) -> None:
    errors = check_compressed(made[variant], made["bf16"], layers)
    assert sorted(errors) == sorted(NAMES)
    low, high = {"int8": (0.001, 0.02), "int4-g64": (0.05, 0.25)}[variant]
    assert all(low < error < high for error in errors.values()), errors


def test_the_error_is_that_of_the_restored_weights(made: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    ours, original = (load_file(made[name] / "model.safetensors") for name in ("int8", "bf16"))
    restored = ours[f"{FIRST}.weight"].float() * ours[f"{FIRST}.weight_scale"].float()
    weights = original[f"{FIRST}.weight"].float()
    expected = float(((restored - weights) ** 2).sum().sqrt() / (weights**2).sum().sqrt())
    assert check_compressed(made["int8"], made["bf16"], BY_CHANNEL)[FIRST] == pytest.approx(expected, rel=1e-5)


SENSITIVE = [name for name in NAMES if "layers.1.self_attn" in name]
SEEDED = "int4-g64.seed1"
WIDE = ("fp8-block", "int4-afp8-g128")
"""The rows with one group size, which the widths of the tiny model do not fit."""
ALL_ROWS = """
import sys
from pathlib import Path
from llmcompressor.modifiers.autoround import base
from quantgate.components.quantize import compress
model, wide, rows, out, in_float32, *names = sys.argv[1:]
auto_round = base.AutoRound
base.AutoRound = lambda **settings: auto_round(**settings | {"iters": 4})  # 200 take a minute
for name in names:
    Path(out, name).mkdir()
    model = wide if name in WIDE else model
    options = ["--model", model, "--variant", name, "--calibration", rows, "--samples", "8", "--tokens", "16"]
    options += ["--errors", f"{out}/errors.json"] if "mixed" in name else []
    options += ["--slow-16-bits"] if name in in_float32.split(",") else []
    sys.argv = ["compress", *options, "--out", f"{out}/{name}", "--facts", f"{out}/{name}.json"]
    compress.main()
"""


@pytest.fixture(scope="module")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with widths of 128 and 256, which blocks of 128 fit."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 257, "eos_token_id": 0}
    LlamaForCausalLM(small_llama(**sizes)).bfloat16().save_pretrained(folder)
    copy_beside_weights(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def all_rows(made: dict[str, Path], wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each row, written by one process, and the facts beside it."""
    out = tmp_path_factory.mktemp("rows")
    errors = {name: 0.2 if name in SENSITIVE else 0.1 for name in NAMES}
    (out / "errors.json").write_text(json.dumps(errors), encoding="utf-8")
    names = [SEEDED, *sorted((row.name for row in VARIANTS.values() if row.quantized), key=WIDE.__contains__)]
    embedded_calibration(out, 16, 16)  # from which a seed draws 8
    texts = RunResults(str(out)).calibration_texts.path
    program = f"WIDE = {WIDE}\n{ALL_ROWS}"
    in_float32 = ",".join(name for name in names if slow_16_bits(variant_named(name)))
    command = [sys.executable, "-c", program, str(made["bf16"]), str(wide_model), str(texts), str(out), in_float32]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False, env=os.environ | OFFLINE)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


EVEN = [row for row in VARIANTS.values() if row.quantized and not row.sensitive_share]


@pytest.mark.parametrize("row", EVEN, ids=lambda row: str(row.name))
def test_every_row_is_written_as_it_says(made: dict[str, Path], wide_model: Path, all_rows: Path, row: Variant) -> None:
    layers = layouts_in(all_rows / f"{row.name}.json")
    model, width = (wide_model, 128) if row.name in WIDE else (made["bf16"], 64)
    widths = {name: 2 * width if "down" in name else width for name in NAMES}
    groups = {name: row.group_size and min(row.group_size, width) for name, width in widths.items()}
    packed = row.scheme not in ("W8A8", "W4A8", "FP8_DYNAMIC", "FP8_BLOCK")
    signed = row.algorithm == "AutoRound"
    kind = ("float" if row.name.startswith(("fp", "nv", "mx")) else "int", 128 if row.name == "fp8-block" else None)
    assert layers == {name: Layout(row.bits, groups[name], row.symmetric, packed, *kind, signed) for name in NAMES}
    folder = all_rows / row.name
    errors = check_compressed(folder, model, layers, transform=row.transform)
    if row.transform:
        assert errors == {}
        with pytest.raises(PrerequisiteError, match="changed tensors|far from the model's"):
            check_compressed(folder, model, layers)
        return
    low, high = {(8, "int"): (0.001, 0.02), (8, "float"): (0.015, 0.04)}.get((row.bits, row.number), (0.05, 0.25))
    assert all(low < error < high for error in errors.values()), errors


def test_the_layers_that_change_most_have_eight_bits_in_a_mixed_row(made: dict[str, Path], all_rows: Path) -> None:
    """A fifth of the weights: one decoder layer's attention, which has the largest of the given errors."""
    layers = layouts_in(all_rows / "int4-g128-mixed.json")
    sizes = {name: 128 if "down" in name else 64 for name in NAMES}
    four = {name: Layout(4, size) for name, size in sizes.items()}
    assert layers == four | {name: BY_CHANNEL[name] for name in SENSITIVE}
    errors = check_compressed(all_rows / "int4-g128-mixed", made["bf16"], layers)
    assert {name for name, error in errors.items() if error < 0.02} == set(SENSITIVE)
    config = json.loads((all_rows / "int4-g128-mixed" / "config.json").read_text())["quantization_config"]
    formats = {name: group["format"] for name, group in config["config_groups"].items()}
    assert (config["format"], sorted(formats.values())) == (
        "mixed-precision",
        ["int-quantized", "pack-quantized", "pack-quantized"],
    )
    layout = "8 bits on 4 of 14 layers, which change most in int4-g128; on the rest g128 on 2 of 10 layers, g64 on 8: "
    assert json.loads((all_rows / "int4-g128-mixed.json").read_text())["layout"].startswith(layout)


@pytest.mark.parametrize("name", ["int8", "int4-g64"])
def test_the_same_recipe_gives_the_same_bytes(made: dict[str, Path], all_rows: Path, name: str) -> None:
    files = [folder / "model.safetensors" for folder in (made[name], all_rows / name)]
    assert files[0].read_bytes() == files[1].read_bytes(), "two processes wrote them"


def test_another_seed_gives_other_weights_of_the_same_layout(made: dict[str, Path], all_rows: Path) -> None:
    errors = [check_compressed(all_rows / name, made["bf16"], GROUPED) for name in ("int4-g64", SEEDED)]
    assert errors[0] != errors[1]
    assert layouts_in(all_rows / f"{SEEDED}.json") == layouts_in(all_rows / "int4-g64.json")


def scale(value: float) -> "Change":
    def change(tensors: "dict[str, torch.Tensor]") -> None:
        tensors[f"{FIRST}.weight_scale"][3, 0] = value

    return change


def unquantized(tensors: "dict[str, torch.Tensor]") -> None:
    import torch

    for part in ("weight_packed", "weight_scale", "weight_shape"):
        del tensors[f"{FIRST}.{part}"]
    tensors[f"{FIRST}.weight"] = torch.zeros(64, 128, dtype=torch.bfloat16)


def quantized_too_much(tensors: "dict[str, torch.Tensor]") -> None:
    tensors["lm_head.weight_scale"] = tensors[f"{FIRST}.weight_scale"].clone()


def swapped(tensors: "dict[str, torch.Tensor]") -> None:
    for part in ("weight_packed", "weight_scale"):
        tensors[f"{FIRST}.{part}"] = tensors[f"{SECOND}.{part}"].clone()


def one_bit(tensors: "dict[str, torch.Tensor]") -> None:
    import torch

    tensors["model.embed_tokens.weight"].view(torch.uint8)[7, 5] ^= 1


def left_out(tensors: "dict[str, torch.Tensor]") -> None:
    del tensors["model.norm.weight"]


def narrower(tensors: "dict[str, torch.Tensor]") -> None:
    tensors[f"{FIRST}.weight_packed"] = tensors[f"{FIRST}.weight_packed"][:, :-1].contiguous()


def other_groups(tensors: "dict[str, torch.Tensor]") -> None:
    tensors[f"{FIRST}.weight_scale"] = tensors[f"{FIRST}.weight_scale"][:, :1].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scale(float("nan")), rf"wrong layers: {FIRST} \(a scale is not finite and positive\)"),
        (scale(float("inf")), rf"wrong layers: {FIRST} \(a scale is not finite and positive\)"),
        (scale(0.0), rf"wrong layers: {FIRST} \(a scale is not finite and positive\)"),
        (other_groups, rf"{FIRST} \(its scales are \(64, 1\), not \(64, 2\)\)"),
        (narrower, rf"{FIRST} \(weight_packed is torch.int32 \(64, 15\), not torch.int32 \(64, 16\)\)"),
        (unquantized, rf"did not quantize {FIRST}, in"),
        (quantized_too_much, r"quantized what it should leave alone: lm_head, in"),
        (swapped, rf"far from the model's: {FIRST} \(14\d%\), in"),
        (one_bit, r"changed tensors that it should leave alone: model.embed_tokens.weight, in"),
        (left_out, r"left out tensors: model.norm.weight, in"),
    ],
)
def test_a_checkpoint_with_a_wrong_tensor_is_refused_by_its_name(
    made: dict[str, Path], checkpoint: Path, change: "Change", message: str
) -> None:
    rewrite(checkpoint, change)
    with pytest.raises(PrerequisiteError, match=message):
        check_compressed(checkpoint, made["bf16"], GROUPED)


def test_a_checkpoint_with_other_settings_is_refused(made: dict[str, Path], checkpoint: Path) -> None:
    file = checkpoint / "config.json"
    original = json.loads(file.read_text())
    for part, value, message in (
        ("group_size", 128, rf"{NAMES[0]} \(4 bits, groups of 128, not 4 bits, groups of 64\)"),
        ("num_bits", 8, rf"{NAMES[0]} \(8 bits, groups of 64, not 4 bits, groups of 64\)"),
    ):
        config = json.loads(json.dumps(original))
        for group in config["quantization_config"]["config_groups"].values():
            group["weights"][part] = value
        file.write_text(json.dumps(config))
        with pytest.raises(PrerequisiteError, match=message):
            check_compressed(checkpoint, made["bf16"], GROUPED)
    original["quantization_config"]["ignore"] = ["re:.*mlp.*"]
    file.write_text(json.dumps(original))
    with pytest.raises(PrerequisiteError, match=r"mlp.gate_proj \(ignored\).* and 1 more, in"):
        check_compressed(checkpoint, made["bf16"], GROUPED)
    file.write_text("{}")
    with pytest.raises(PrerequisiteError, match="without a quantization config"):
        check_compressed(checkpoint, made["bf16"], GROUPED)


def test_another_tokenizer_is_refused(made: dict[str, Path], checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(PrerequisiteError, match=r"files that are not the model's: tokenizer.json, in"):
        check_compressed(checkpoint, made["bf16"], GROUPED)


def scaled(name: str) -> "Change":
    def change(tensors: "dict[str, torch.Tensor]") -> None:
        tensors[name][7] *= 1.05

    return change


def without_output(tensors: "dict[str, torch.Tensor]") -> None:
    del tensors["lm_head.weight"]


def unmerged(tensors: "dict[str, torch.Tensor]") -> None:
    tensors["model.layers.1.input_layernorm.weight"] *= 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled("model.embed_tokens.weight"), r"changed more than a rotation does: model\.embed_tokens\.weight, in"),
        (scaled("lm_head.weight"), r"changed more than a rotation does: lm_head\.weight, in"),
        (unmerged, r"changed more than a rotation does: model\.layers\.1\.input_layernorm\.weight, in"),
        (left_out, r"left out tensors: model\.norm\.weight, in"),
    ],
)
def test_a_rotation_leaves_lengths_as_they_are(
    made: dict[str, Path], all_rows: Path, tmp_path: Path, change: "Change", message: str
) -> None:
    name = "int4-spinquant-g128"
    folder = shutil.copytree(all_rows / name, tmp_path / "checkpoint")
    rewrite(folder, change)
    with pytest.raises(PrerequisiteError, match=message):
        check_compressed(folder, made["bf16"], layouts_in(all_rows / f"{name}.json"), transform="SpinQuant")


def test_a_rotated_model_has_an_output_layer_of_its_own(made: dict[str, Path], all_rows: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    name = "int4-spinquant-g128"
    tied = shutil.copytree(made["bf16"], tmp_path / "tied")
    embeddings = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(tied, without_output)
    rotated = shutil.copytree(all_rows / name, tmp_path / "rotated")
    turned = embeddings.flip(1).contiguous()  # a rotation too
    rewrite(rotated, lambda tensors: tensors.update({"lm_head.weight": turned}))
    layers = layouts_in(all_rows / f"{name}.json")
    assert check_compressed(rotated, tied, layers, transform="SpinQuant") == {}
    with pytest.raises(PrerequisiteError, match=r"added tensors: lm_head\.weight, in"):
        check_compressed(rotated, tied, layers, transform="AWQ")


def test_a_model_that_cannot_be_rotated_is_refused_before_llm_compressor_starts(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for known, architecture in ((True, "LlamaForCausalLM"), (True, "Qwen3ForCausalLM"), (False, "Qwen3MoeForCausalLM")):
        config.write_text(json.dumps({"architectures": [architecture]}))
        check_rotates(tmp_path, VARIANTS["int4-awq-g128"])
        with (
            nullcontext() if known else pytest.raises(PrerequisiteError, match=r"and this one is Qwen3MoeForCausalLM\.")
        ):
            check_rotates(tmp_path, VARIANTS["int4-spinquant-g128"])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("int4-a8-channel-mse", ("int-quantized", "int", False, "channel", "mse")),
        ("int4-a8-g32", ("int-quantized", "int", False, "group", "minmax")),
        ("int4-afp8-g128", ("pack-quantized", "float", True, "group", "minmax")),
    ],
)
def test_activations_of_eight_bits_are_quantized_per_token_as_the_kernel_of_vllm_reads_them(
    all_rows: Path, name: str, written: tuple[str, str, bool, str, str]
) -> None:
    config = json.loads((all_rows / name / "config.json").read_text())["quantization_config"]
    for group in config["config_groups"].values():
        inputs, weights = group["input_activations"], group["weights"]
        assert (inputs["num_bits"], inputs["strategy"], inputs["dynamic"]) == (8, "token", True)
        said = (group["format"], inputs["type"], inputs["symmetric"], weights["strategy"], weights["observer"])
        assert said == written


def test_the_worst_layers_come_first() -> None:
    errors = {f"layer{number}": error for number, error in enumerate((0.1, 0.3, 0.2, 0.3))}
    assert list(worst(errors, 3)) == ["layer1", "layer3", "layer2"]
