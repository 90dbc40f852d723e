"""Quantize a very small model with several processes at once, as on several GPUs: here on a CPU, by gloo."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.layers import Layout
from quantgate.components.models.variants import VARIANTS, variant_named
from quantgate.components.quantize.quantization import compress_command, quantize, recipe_key, run
from quantgate.components.quantize.ranks import ranks_for
from quantgate.components.resolve.checks import check_quantize_gpus
from quantgate.components.run.artifacts import Model
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from quantgate.components.run.results import RunResults
from quantgate.components.storage.location import open_store
from tests.support.calibrated import embedded_calibration
from tests.support.tiny_model import small_moe

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


@pytest.fixture
def tied_moe(tiny_model: Path, tmp_path: Path) -> Path:
    """A small mixture of experts whose output is its embedding."""
    import torch
    from transformers import AutoTokenizer, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(small_moe(vocab_size=257, eos_token_id=0, tie_word_embeddings=True))
    model.bfloat16().save_pretrained(tmp_path / "moe")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "moe")
    return tmp_path / "moe"


def make(model: Path, folder: Path, variant: str, ranks: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The facts, and the bytes of each file of the checkpoint, which has passed the check."""
    from quantgate.components.quantize.check import check_compressed

    run(command_in(folder, model, variant, ranks), folder / "log", step_in(folder))
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    layers = {name: Layout(**layer) for name, layer in facts["layers"].items()}
    check_compressed(folder / "model", model, layers)
    return facts, {file.name: file.read_bytes() for file in (folder / "model").iterdir()}


def check_same_weights(one: Path, two: Path, layers: int) -> None:
    """Each quantized weight is the same but for the order of sums; a text that is left out would change them more."""
    numbers, others = weights_in(one), weights_in(two)
    assert len(numbers) == layers
    for name, weight in numbers.items():
        assert (others[name] - weight).norm() < 0.02 * weight.norm(), name


@pytest.mark.slow(reason="llm-compressor runs three times, twice in two processes")
@pytest.mark.parametrize("variant", ["int8", "nvfp4"])  # GPTQ, and RTN; int4-g64 is the next test's
def test_two_ranks_make_the_variant_of_one_and_the_same_bytes_each_time(
    tiny_model: Path, tmp_path: Path, variant: str
) -> None:
    facts, files = make(tiny_model, tmp_path / "one", variant, ranks=1)
    facts_of_two, files_of_two = make(tiny_model, tmp_path / "two", variant, ranks=2)
    assert files_of_two == make(tiny_model, tmp_path / "again", variant, ranks=2)[1]
    assert (files_of_two.keys(), files_of_two["config.json"]) == (files.keys(), files["config.json"])
    assert facts_of_two["algorithm"] == f"{facts['algorithm']} on 2 processes"
    assert facts_of_two["layers"] == facts["layers"]
    assert facts_of_two["peak_memory_bytes"] > 1.5 * facts["peak_memory_bytes"], "that of both"
    check_same_weights(tmp_path / "one", tmp_path / "two", layers=14)
    log = (tmp_path / "two" / "log").read_text(encoding="utf-8")
    assert log.count("Writing model shards:   0%") == 1, "the log has one rank's progress"
    if VARIANTS[variant].algorithm == "GPTQ":
        assert (log.count("(2/3): Calibrating:   0%"), "[Rank 1]" in log) == (1, False)


@pytest.mark.slow(reason="llm-compressor runs twice, once in two processes")
def test_two_ranks_share_experts_and_tied_embeddings(tied_moe: Path, tmp_path: Path) -> None:
    _, files = make(tied_moe, tmp_path / "one", "int4-g64", ranks=1)
    _, files_of_two = make(tied_moe, tmp_path / "two", "int4-g64", ranks=2)
    assert (files_of_two.keys(), files_of_two["config.json"]) == (files.keys(), files["config.json"])
    one, two = tensors_in(tmp_path / "one"), tensors_in(tmp_path / "two")
    assert one.keys() == two.keys()
    packed = [name for name in one if name.endswith("weight_packed")]
    assert len(packed) == 2 * (4 + 4 * 3)
    for name in packed:  # eight codes a number; a text that is left out changes nearly all numbers
        assert (one[name] != two[name]).float().mean() < 0.1, name


@pytest.mark.slow(reason="llm-compressor runs in two processes")
@pytest.mark.fault(
    "weights", "a rank of several GPUs fails", "all ranks end, and the variant fails with that rank's reason"
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
    "weights", "the kernel kills a rank of several GPUs", "all ranks end, and the variant fails with the likely cause"
)
def test_a_killed_rank_ends_all(tiny_model: Path, tmp_path: Path) -> None:
    command = command_in(tmp_path, tiny_model, "int8", ranks=2)
    listening: list[str] = []

    def look_and_kill() -> None:
        ranks = ranks_at_work(tmp_path)
        for process in (*ranks, *ranks[0].parents()[:1]):
            listening.extend(place.laddr.ip for place in process.net_connections() if place.status == "LISTEN")
        ranks[1].kill()

    threading.Thread(target=look_and_kill, daemon=True).start()
    with pytest.raises(PrerequisiteError, match="It was killed: most likely the machine ran out of memory"):
        run(command, tmp_path / "log", step_in(tmp_path))
    assert not ranks_of(tmp_path)
    assert set(listening) == {"127.0.0.1"}, "gloo's own; PyTorch's stores would listen on all interfaces"


def test_a_full_shared_memory_is_named(tmp_path: Path) -> None:
    said = "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
    with pytest.raises(PrerequisiteError, match="share the weights in /dev/shm, which is full"):
        run([sys.executable, "-c", f"raise SystemExit({said!r})"], tmp_path / "log", step_in(tmp_path))


@pytest.mark.slow(reason="llm-compressor runs in two processes")
@pytest.mark.fault("weights", "the launcher of several ranks is killed", "the kernel kills its ranks too")
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


@pytest.mark.fault(
    "machine", "a run asks for more GPUs than this machine, or the pipeline's step, has", "`resolve` refuses the run"
)
def test_a_run_with_more_gpus_than_there_are_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = EvaluationPlan(variants=("bf16", "int8"), store="s", results="r", quantize_gpus=2)
    for pipeline_has in ("2", "3"):
        check_quantize_gpus(plan, on_cluster=True, environment={"QUANTGATE_QUANTIZE_GPUS": pipeline_has})
    with pytest.raises(PrerequisiteError, match="the pipeline gives quantize 1. Compile it with --gpus 2"):
        check_quantize_gpus(plan, on_cluster=True, environment={"QUANTGATE_QUANTIZE_GPUS": "1"})
    monkeypatch.setenv("PATH", str(tmp_path))
    check_quantize_gpus(plan.model_copy(update={"quantize_gpus": 1}), on_cluster=False)
    with pytest.raises(PrerequisiteError, match="--quantize-gpus is 2, and the GPUs that nvidia-smi lists .* are 0"):
        check_quantize_gpus(plan, on_cluster=False)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100, 81559, 580'\necho 'NVIDIA H100, 81559, 580'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    check_quantize_gpus(plan, on_cluster=False, environment={})
    check_quantize_gpus(plan, on_cluster=False, environment={"CUDA_VISIBLE_DEVICES": "0,1"})
    for visible, count in (("1", 1), ("0,-1,1", 1), ("", 0)):
        with pytest.raises(PrerequisiteError, match=f"CUDA_VISIBLE_DEVICES leaves are {count}"):
            check_quantize_gpus(plan, on_cluster=False, environment={"CUDA_VISIBLE_DEVICES": visible})
