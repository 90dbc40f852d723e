"""Quantize a very small model with several processes at once, as on several GPUs: here on a CPU, by gloo."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.layers import Layout
from quantgate.components.models.variants import VARIANTS, variant_named
from quantgate.components.quantize.quantization import compress_command, quantize, recipe_key, run
from quantgate.components.quantize.ranks import ranks_for
from quantgate.components.run.artifacts import Model
from quantgate.components.run.progress import Step
from quantgate.components.run.results import RunResults
from quantgate.components.storage.location import open_store
from tests.support.calibrated import embedded_calibration

if TYPE_CHECKING:
    import torch

SAMPLES, TOKENS = 5, 32


def command_in(folder: Path, model: Path, variant: str, ranks: int, samples: int = SAMPLES) -> list[str]:
    """The program's command line; it writes into the folder."""
    calibration = embedded_calibration(folder / "run", samples, TOKENS)
    texts, out = RunResults(str(folder / "run")).calibration_texts.path, folder / "model"
    return compress_command(variant_named(variant), model, texts, calibration, out, folder / "facts.json", ranks)


def step_in(folder: Path) -> Step:
    return Step(folder / "progress.jsonl", "quantize", "x")


def tensors_in(folder: Path) -> "dict[str, torch.Tensor]":
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def weights_in(folder: Path) -> "dict[str, torch.Tensor]":
    """The quantized weights as numbers."""
    from compressed_tensors import ModelCompressor
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto")
    ModelCompressor.from_pretrained_model(model).decompress_model(model)
    return {name: weight.float() for name, weight in model.named_parameters() if name.endswith("proj.weight")}


@pytest.mark.slow(reason="llm-compressor runs three times, in two processes each but once")
@pytest.mark.parametrize("variant", ["int8", "int4-g64", "int4-a8-g32", "nvfp4"])
def test_two_ranks_make_the_variant_of_one_and_the_same_bytes_each_time(
    tiny_model: Path, tmp_path: Path, variant: str
) -> None:
    from quantgate.components.quantize.check import check_compressed

    for name, ranks in (("one", 1), ("two", 2), ("again", 2)):
        command = command_in(tmp_path / name, tiny_model, variant, ranks)
        run(command, tmp_path / f"{name}.log", step_in(tmp_path / name))
    facts = {name: json.loads((tmp_path / name / "facts.json").read_text()) for name in ("one", "two")}
    layers = {name: Layout(**layer) for name, layer in facts["two"]["layers"].items()}
    check_compressed(tmp_path / "two" / "model", tiny_model, layers)
    assert facts["two"]["algorithm"] == f"{facts['one']['algorithm']} on 2 ranks"
    assert facts["two"]["layers"] == facts["one"]["layers"]
    assert facts["two"]["peak_memory_bytes"] > 1.5 * facts["one"]["peak_memory_bytes"], "that of both"
    files = [{file.name: file.read_bytes() for file in (tmp_path / name / "model").iterdir()} for name in NAMES]
    assert files[1] == files[2]
    assert (files[1].keys(), files[1]["config.json"]) == (files[0].keys(), files[0]["config.json"])
    one, two = weights_in(tmp_path / "one"), weights_in(tmp_path / "two")
    assert len(one) == len(two) == 14
    for name, weight in one.items():
        assert (two[name] - weight).norm() < 0.02 * weight.norm(), f"{name}: all texts count, whichever rank had them"
    log = (tmp_path / "two.log").read_text(encoding="utf-8")
    assert log.count("Writing model shards: 100%") == 1, "the log has one rank's progress"
    if VARIANTS[variant].algorithm == "GPTQ":
        assert (log.count("(2/3): Calibrating: 100%"), "[Rank 1]" in log) == (1, False)


NAMES = ("one", "two", "again")


@pytest.mark.slow(reason="llm-compressor runs in two processes")
@pytest.mark.fault(
    "processes", "a rank of several GPUs fails", "all ranks end, and the variant fails with that rank's reason"
)
def test_a_rank_that_fails_ends_all_and_its_reason_is_told(tiny_model: Path, tmp_path: Path) -> None:
    command = command_in(tmp_path, tiny_model, "int8", ranks=2, samples=1)  # none for the second rank
    with pytest.raises(PrerequisiteError, match="llm-compressor ended with exit status 1") as failure:
        run(command, tmp_path / "log", step_in(tmp_path))
    assert "AssertionError: Dataset must have at least one sample on each" in str(failure.value)
    assert "rank=1" in str(failure.value)
    assert not ranks_of(tmp_path)
    assert not (tmp_path / "facts.json").exists()


@pytest.mark.slow(reason="llm-compressor runs in two processes")
@pytest.mark.fault(
    "processes", "the kernel kills a rank of several GPUs", "all ranks end, and the variant fails with the likely cause"
)
def test_a_killed_rank_ends_all(tiny_model: Path, tmp_path: Path) -> None:
    command = command_in(tmp_path, tiny_model, "int8", ranks=2)
    threading.Thread(target=lambda: ranks_at_work(tmp_path)[1].kill(), daemon=True).start()
    with pytest.raises(PrerequisiteError, match="It was killed: most likely the machine ran out of memory"):
        run(command, tmp_path / "log", step_in(tmp_path))
    assert not ranks_of(tmp_path)


@pytest.mark.slow(reason="llm-compressor runs in two processes")
@pytest.mark.fault("processes", "the launcher of several ranks is killed", "the kernel kills its ranks too")
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_no_rank_outlives_its_launcher(tiny_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            command_in(tmp_path, tiny_model, "int8", ranks=2), stdout=output, stderr=subprocess.STDOUT
        )
    ranks = ranks_at_work(tmp_path)
    launcher.kill()
    launcher.wait()
    gone, alive = psutil.wait_procs(ranks, timeout=20)
    assert (len(gone), alive) == (2, [])


def ranks_of(folder: Path) -> list[psutil.Process]:
    """The running ranks that write into the folder, in their order."""
    ranks = {}
    for process in psutil.process_iter():
        try:
            if str(folder / "facts.json") in process.cmdline() and (rank := process.environ().get("RANK")):
                ranks[rank] = process
        except psutil.Error:
            continue
    return [ranks[rank] for rank in sorted(ranks)]


def ranks_at_work(folder: Path) -> list[psutil.Process]:
    """The two ranks, once they share the model."""
    deadline = time.monotonic() + 60
    while not (folder / "log").exists() or b"Dispatching model" not in (folder / "log").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks = ranks_of(folder)
    assert len(ranks) == 2
    return ranks


def test_gptq_and_rtn_use_several_gpus_and_the_other_methods_one() -> None:
    several = {name for name, row in VARIANTS.items() if row.quantized and ranks_for(row, 4) == 4}
    one = {name for name, row in VARIANTS.items() if row.quantized and ranks_for(row, 4) == 1}
    assert one == {"int4-awq-g128", "int4-awq-g64", "int4-autoround-g128", "int4-spinquant-g128", "int8-smooth"}
    assert {"int8", "int4-g64", "int4-g128-mixed", "nvfp4"} < several


def test_weights_of_several_ranks_are_stored_apart_from_those_of_one(tmp_path: Path) -> None:
    model = Model(source="x", digest="1", uri="u", size_bytes=1)
    calibration = embedded_calibration(tmp_path, SAMPLES, TOKENS)
    keys = [recipe_key(VARIANTS["int8"], model, calibration, ranks) for ranks in (1, 2, 3)]
    assert len(set(keys)) == 3
    assert keys[0] == recipe_key(VARIANTS["int8"], model, calibration)


@pytest.mark.slow(reason="PyTorch takes seconds to import")
@pytest.mark.fault(
    "machine", "more GPUs are asked for than there are", "the variant fails before llm-compressor starts"
)
def test_more_gpus_than_pytorch_finds_are_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantgate.components.models.sources import resolve
    from quantgate.components.storage.cache import cache_dir

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    store = open_store(str(tmp_path / "store"))
    baseline = resolve(f"file:{tiny_model}", store, cache_dir())
    calibration = embedded_calibration(tmp_path / "run", SAMPLES, TOKENS)
    weights = quantize(VARIANTS["int8"], baseline, store, tmp_path / "run", step_in(tmp_path), calibration, gpus=2)
    assert weights.failure.startswith("--quantize-gpus is 2, and PyTorch finds 0 GPUs here.")
    assert not RunResults(str(tmp_path / "run")).log("quantize-int8").exists()
