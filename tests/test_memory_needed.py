"""The memory that llm-compressor needs, by the arithmetic of its pipeline, and the refusal where there is less."""

import json
import re
import shutil
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import VARIANTS
from quantgate.components.quantize.memory_needed import PROCESS, check_fits, check_memory, check_shared, memory_needed
from quantgate.components.run import machine
from quantgate.components.run.calibration import Calibration

pytestmark = pytest.mark.slow  # PyTorch takes seconds to import

TEXTS = Calibration(samples=10, tokens=64, used_tokens=500)
CONFIG = {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 100, "dtype": "bfloat16"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two decoder layers: the second has two experts in one tensor."""
    import torch
    from safetensors.torch import save_file

    shapes = {
        "model.embed_tokens.weight": (100, 8),
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.mlp.down_proj.weight": (8, 32),
        "model.layers.0.input_layernorm.weight": (8,),
        "model.layers.1.self_attn.q_proj.weight": (8, 8),
        "model.layers.1.mlp.experts.down_proj": (2, 8, 32),
    }
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    return tmp_path


WEIGHTS = 800 + 64 + 256 + 8 + 64 + 512
ACTIVATIONS = 500 * ((8 + 2 * 4 + 50) * 2 + 24)
FORWARD, HESSIANS, WORKING = 50 * (4 * 32 + 200), 4 * (64 + 2 * 1024), 12 * (1024 + 256)


def test_the_memory_of_a_cpu_and_of_a_gpu(model: Path) -> None:
    whole = {"process": PROCESS, "weights": 2 * WEIGHTS, "activations": ACTIVATIONS}
    one_layer = {"forward": FORWARD, "hessians": HESSIANS, "working": WORKING}
    needed = memory_needed(model, VARIANTS["int8"], TEXTS, in_float32=False, on_gpu=False)
    assert (needed.on_cpu, needed.on_gpu) == (whole | one_layer, {})
    needed = memory_needed(model, VARIANTS["int8"], TEXTS, in_float32=False, on_gpu=True)
    assert (needed.on_cpu, needed.on_gpu) == (whole, one_layer | {"layer": 2 * (64 + 512)})


def test_awq_keeps_inputs_and_has_no_hessians_and_float32_doubles_the_weights(model: Path) -> None:
    needed = memory_needed(model, VARIANTS["int4-awq-g64"], TEXTS, in_float32=True, on_gpu=False).on_cpu
    assert needed["AWQ"] == 500 * (4 * 8 + 32) * 4
    assert needed["weights"] == 4 * WEIGHTS
    assert not {"hessians", "working"} & needed.keys()
    (model / "config.json").write_text(json.dumps(CONFIG | {"dtype": "float32"}), encoding="utf-8")
    assert (
        memory_needed(model, VARIANTS["int8"], TEXTS, in_float32=False, on_gpu=False).on_cpu["weights"] == 4 * WEIGHTS
    )


GIB = 2**30


@pytest.mark.fault(
    "machine",
    "several GPUs are asked for, and /dev/shm is too small for the weights that they share",
    "the variant fails before llm-compressor starts, with the size and what to do",
)
def test_ranks_need_a_process_each_and_room_for_the_weights_that_they_share(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = memory_needed(model, VARIANTS["int8"], TEXTS, in_float32=False, on_gpu=False).on_cpu
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP", limit)
    limit.write_text(str(sum(whole.values()) + PROCESS))
    check_memory(model, VARIANTS["int8"], TEXTS, in_float32=False, ranks=2)
    limit.write_text(str(sum(whole.values()) + PROCESS - 1))
    with pytest.raises(PrerequisiteError, match=r"process 1\.1"):
        check_memory(model, VARIANTS["int8"], TEXTS, in_float32=False, ranks=2)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        PrerequisiteError, match=r"Several GPUs share the weights in .*: \d+\.\d GiB, and .* free there"
    ):
        check_shared(free + GIB, 1, shared=tmp_path)


def test_ranks_need_a_mapping_for_each_tensor_and_its_scales(tmp_path: Path) -> None:
    maps = tmp_path / "max_map_count"
    maps.write_text("2000\n")
    check_shared(1, 1000, shared=tmp_path, maps=maps)
    with pytest.raises(PrerequisiteError, match=r"at least 2,002, and Linux allows a process 2,000\. Set vm\.max_map"):
        check_shared(1, 1001, shared=tmp_path, maps=maps)


@pytest.mark.fault(
    "machine",
    "a model and its calibration need more memory than the machine, its control group or its GPU has",
    "the variant fails before llm-compressor starts, with the numbers and what to do",
)
def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    needed = {"weights": 3 * GIB, "activations": 2 * GIB}
    check_fits(needed, 5 * GIB, "this machine")
    with pytest.raises(PrerequisiteError) as refusal:
        check_fits(needed, 5 * GIB - 1, "this machine")
    assert str(refusal.value) == (
        "llm-compressor needs about 5.0 GiB of memory (weights 3.0, activations 2.0), and this machine has 5.0 GiB. To"
        " quantize this model, give fewer texts (--calibration-samples) or shorter ones (--calibration-tokens), or use"
        " a larger machine."
    )
    with pytest.raises(
        PrerequisiteError, match=r"its GPU has 2\.0 GiB\. To quantize this model, use a larger machine\."
    ):
        check_fits(needed, 2 * GIB, "its GPU")


def test_the_control_groups_limit_counts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory(model, VARIANTS["int8"], TEXTS, in_float32=False)
    (model / "memory.max").write_text(f"{GIB // 2}\n")
    monkeypatch.setattr(machine, "CGROUP", model / "memory.max")
    with pytest.raises(PrerequisiteError, match=re.escape("and this machine has 0.5 GiB. To quantize this model, use")):
        check_memory(model, VARIANTS["int8"], TEXTS, in_float32=False)
