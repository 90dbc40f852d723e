"""Quantize small models with experts and with a vision tower by the real llm-compressor, and check what it wrote."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.layers import Layout, group_layers
from quantgate.components.models.parts import is_expert, part_of
from quantgate.components.models.tokenizer_files import copy_beside_weights
from quantgate.components.quantize.check import check_compressed
from quantgate.components.quantize.quantization import layouts_in
from quantgate.components.quantize.tensors import check_stored
from quantgate.components.quantize.written import describe_parts
from quantgate.components.run.results import RunResults
from tests.support.calibrated import embedded_calibration
from tests.support.tiny_model import small_llava, small_moe

if TYPE_CHECKING:
    import torch

    Weights = dict[str, torch.Tensor]

needs_torch = pytest.mark.slow(reason="PyTorch takes seconds to import")
quantizes = pytest.mark.slow(reason="the real llm-compressor quantizes")
ATTENTION = [f"self_attn.{kind}_proj" for kind in "qkvo"]
MLP = [f"{kind}_proj" for kind in ("gate", "up", "down")]
EXPERTS = [f"model.layers.{layer}.mlp.experts.{n}.{kind}" for layer in range(2) for n in range(4) for kind in MLP]
NAMES = {
    "moe": [*(f"model.layers.{layer}.{kind}" for layer in range(2) for kind in ATTENTION), *EXPERTS],
    "llava": [
        f"language_model.model.layers.{layer}.{kind}"
        for layer in range(2)
        for kind in (*ATTENTION, *(f"mlp.{kind}" for kind in MLP))
    ],
}
LAYOUTS = {"int8": Layout(8, None, packed=False), "int4-g64": Layout(4, 64)}
EACH = """
import sys
from pathlib import Path
from quantgate.components.quantize import compress
texts, out, *models = sys.argv[1:]
for model in models:
    for name in ("int8", "int4-g64"):
        folder = Path(out, Path(model).name, name)
        folder.mkdir(parents=True)
        options = ["--model", model, "--variant", name, "--calibration", texts, "--samples", "4", "--tokens", "16"]
        sys.argv = ["compress", *options, "--out", str(folder), "--facts", f"{folder}.json"]
        compress.main()
"""


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two models; the routers of the one choose the same experts for every token."""
    import torch
    from transformers import LlavaForConditionalGeneration, Qwen3MoeForCausalLM

    folder = tmp_path_factory.mktemp("families")
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "eos_token_id": 0}
    moe, llava = Qwen3MoeForCausalLM(small_moe(**sizes)), LlavaForConditionalGeneration(small_llava(**sizes))
    for layer in moe.model.layers:
        torch.nn.init.zeros_(layer.mlp.gate.weight)
    for name, model in (("moe", moe), ("llava", llava)):
        model.bfloat16().save_pretrained(folder / name)
        copy_beside_weights(tiny_model, folder / name)
    return folder


@pytest.fixture(scope="module")
def made(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two variants of each model, written by one process, and the facts beside them."""
    out = tmp_path_factory.mktemp("variants")
    embedded_calibration(out, 4, 16)
    texts = RunResults(str(out)).calibration_texts.path
    command = [sys.executable, "-c", EACH, str(texts), str(out), str(models / "moe"), str(models / "llava")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def weights_in(folder: Path) -> "Weights":
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def rewritten(folder: Path, place: Path, weights: "Weights") -> Path:
    from safetensors.torch import save_file

    shutil.copytree(folder, place)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, place / "model.safetensors")
    return place


@quantizes
@pytest.mark.parametrize("variant", ["int8", "int4-g64"])
@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("moe", "24 of 24 layers of experts; as before: 2 of routers"),
        ("llava", "as before: 14 of the vision tower, 2 of the projector"),
    ],
)
def test_experts_are_quantized_and_a_vision_tower_is_not(
    models: Path, made: Path, model: str, variant: str, parts: str
) -> None:
    layers = layouts_in(made / model / f"{variant}.json")
    assert layers == dict.fromkeys(NAMES[model], LAYOUTS[variant])
    errors = check_compressed(made / model / variant, models / model, layers)
    low, high = {"int8": (0.001, 0.02), "int4-g64": (0.05, 0.25)}[variant]
    assert all(low < error < high for error in errors.values()), errors
    assert describe_parts(made / model / variant) == parts
    own, written = weights_in(models / model), weights_in(made / model / variant)
    kept = {name: tensor for name, tensor in own.items() if name.removesuffix(".weight") not in layers}
    assert all(written[name].equal(tensor) for name, tensor in kept.items())


@quantizes
def test_every_expert_sees_the_calibration_texts(models: Path, made: Path) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    own, written = weights_in(models / "moe"), weights_in(made / "moe" / "int4-g64")
    for name in EXPERTS:
        weights, scale = own[f"{name}.weight"].float(), written[f"{name}.weight_scale"].float()
        restored = unpack_from_int32(written[f"{name}.weight_packed"], 4, weights.shape).float() * scale
        inside = (weights.abs() < 7 * scale) & ((restored - weights).abs() > 0.6 * scale)
        assert inside.any(), f"{name} is rounded to the nearest: GPTQ had no data for it"


@pytest.mark.fault(
    "weights", "a recipe leaves a model's experts out", "the variant fails with the names of the experts' layers"
)
@quantizes
def test_experts_that_were_left_out_are_named(models: Path, made: Path, tmp_path: Path) -> None:
    folder = made / "moe" / "int4-g64"
    layers = layouts_in(made / "moe" / "int4-g64.json")
    fewer = {name: layout for name, layout in layers.items() if name not in EXPERTS}
    own = weights_in(models / "moe")
    left = {name: tensor for name, tensor in weights_in(folder).items() if ".experts." not in name}
    left |= {f"{name}.weight": own[f"{name}.weight"] for name in EXPERTS}
    without = rewritten(folder, tmp_path / "without", left)
    with pytest.raises(
        PrerequisiteError, match=r"did not quantize model.layers.0.mlp.experts.0.down_proj, .* and 19 more"
    ):
        check_compressed(without, models / "moe", fewer)
    assert describe_parts(without).startswith("0 of 24 layers of experts; ")


@pytest.mark.fault(
    "weights", "a recipe quantizes a model's vision tower", "the variant fails with the names of the tower's layers"
)
@quantizes
def test_a_quantized_vision_tower_is_named(models: Path, made: Path, tmp_path: Path) -> None:
    folder, layers = made / "llava" / "int8", layouts_in(made / "llava" / "int8.json")
    name, like = "vision_tower.encoder.layers.0.mlp.fc1", "language_model.model.layers.0.mlp.up_proj"
    weights = weights_in(folder)
    scaled = weights | {f"{name}.{part}": weights[f"{like}.{part}"].clone() for part in ("weight", "weight_scale")}
    more = rewritten(folder, tmp_path / "more", scaled)
    config = json.loads((more / "config.json").read_text())
    config["quantization_config"]["ignore"].remove(name)
    config["quantization_config"]["config_groups"]["group_0"]["targets"].append(name)
    (more / "config.json").write_text(json.dumps(config))
    with pytest.raises(PrerequisiteError, match=rf"quantized what it should leave alone: {name}, in"):
        check_compressed(more, models / "llava", layers | {name: layers[like]})


@quantizes
@pytest.mark.parametrize("turned", [False, True])
def test_experts_in_one_tensor_are_compared_one_by_one(models: Path, made: Path, tmp_path: Path, turned: bool) -> None:
    import torch

    own, layers = weights_in(models / "moe"), layouts_in(made / "moe" / "int4-g64.json")
    fused = {name: tensor for name, tensor in own.items() if ".experts." not in name}
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (torch.stack([own[f"{experts}.{n}.{kind}.weight"] for n in range(4)]) for kind in MLP)
        both = torch.cat([gate, up], dim=1)
        fused[f"{experts}.gate_up_proj"] = both.transpose(1, 2) if turned else both
        fused[f"{experts}.down_proj"] = down.transpose(1, 2) if turned else down
    model = rewritten(models / "moe", tmp_path / "fused", fused)
    folder = made / "moe" / "int4-g64"
    assert check_compressed(folder, model, layers) == check_compressed(folder, models / "moe", layers)


@pytest.mark.fault(
    "inputs",
    "llm-compressor names a model's layers otherwise than the model's files do, as those of Mixtral",
    "the variant fails before calibration, with the names",
)
@quantizes
def test_layers_that_the_files_do_not_have_are_named_before_calibration(models: Path) -> None:
    check_stored(models / "moe", NAMES["moe"])
    with pytest.raises(SystemExit, match=r"do not have the weights of model.layers.0.mlp.experts.0.w1 as matrices"):
        check_stored(models / "moe", [*NAMES["moe"], "model.layers.0.mlp.experts.0.w1"])


def test_the_layers_of_experts_share_a_group_size_and_others_do_not() -> None:
    expert = "model.layers.0.mlp.experts.0"
    widths = {f"{expert}.gate_proj": 2048, f"{expert}.up_proj": 2048, f"{expert}.down_proj": 704}
    groups = group_layers({**widths, "model.layers.0.self_attn.q_proj": 2048}, 128)
    assert [(group.group_size, group.kinds) for group in groups] == [
        (128, ("q_proj",)),
        (64, ("down_proj", "gate_proj", "up_proj")),
    ]


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        ("lm_head", "the output layer"),
        ("language_model.lm_head", "the output layer"),
        ("model.embed_tokens", "embeddings"),
        ("model.embed_vision.embedding_projection", "the vision tower"),
        ("visual.blocks.0.attn.qkv", "the vision tower"),
        ("model.visual.merger.mlp.0", "the vision tower"),
        ("model.vision_tower.encoder.layers.0.self_attn.q_proj", "the vision tower"),
        ("model.audio_tower.layers.0.fc1", "the audio tower"),
        ("multi_modal_projector.linear_1", "the projector"),
        ("model.layers.0.mlp.gate", "routers"),
        ("model.layers.0.block_sparse_moe.gate", "routers"),
        ("model.layers.0.block_sparse_moe.router.layer", "routers"),
        ("model.layers.0.feed_forward.router", "routers"),
        ("model.layers.0.mlp.shared_expert_gate", "routers"),
        ("model.layers.0.linear_attn.in_proj_ba", "linear attention"),
        ("model.layers.0.mlp.gate_proj", None),
        ("model.layers.0.mlp.experts.3.gate_proj", None),
        ("model.layers.0.mlp.shared_expert.down_proj", None),
        ("model.language_model.layers.0.self_attn.q_proj", None),
    ],
)
def test_each_layer_belongs_to_its_part(layer: str, part: str | None) -> None:
    found = part_of(layer)
    assert (found and found.name) == part
    assert is_expert(layer) == (".experts." in layer or ".shared_expert." in layer)
