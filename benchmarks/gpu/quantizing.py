"""(a) llm-compressor on the GPU: seconds and peak GPU memory of each variant, and of a bare llm-compressor script.

The program is that of the step `quantize`; the seconds are those of the whole process, from its start to the checkpoint
on the disk. The bare script quantizes to int4-g64 only.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from safetensors import safe_open

from benchmarks.gpu import setting, shapes
from benchmarks.gpu.machine import watched
from benchmarks.gpu.setting import NOT_RUN, Setting, Table, seconds
from benchmarks.quantize_overhead import BARE
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import weights_size
from quantgate.components.models.variants import BASELINE, variant_named
from quantgate.components.quantize.check import check_compressed
from quantgate.components.quantize.quantization import compress_command, layouts_in
from quantgate.components.run.calibration import Calibration

LAYER_KINDS = 7
"""Linear layers in a block of Llama."""
MEASURED, REHEARSED = Calibration(samples=32, tokens=256), Calibration(samples=4, tokens=32)


def main() -> None:
    """Quantize and fill the table."""
    chosen = setting.parse(__doc__)
    columns = ("model", "layers", "variant", "program", "seconds", "peak GPU memory, GB", "weights, GB", "checkpoint")
    table = Table(chosen.out, "quantize", "llm-compressor", columns)
    names = [shapes.DEMO] if chosen.rehearse else [shapes.DEMO, *shapes.SHAPES]
    if chosen.models:
        table.name = f"quantize-{'-'.join(chosen.models)}"
    jobs = [(variant, "quantgate") for variant in shapes.variants(chosen.models) if variant != BASELINE]
    jobs = [("int4-g64", "quantgate")] if chosen.rehearse else [*jobs, ("int4-g64", "bare")]
    for name in names:
        for variant, program in jobs:
            if chosen.wants(name, variant):
                model, layers = model_of(chosen, name)
                folder = variant if program == "quantgate" else "bare"
                row = quantize(chosen, model, variant, program, chosen.out / "weights" / name / folder, layers)
                table.add(name, layers, variant, program, *row)


def model_of(chosen: Setting, name: str) -> tuple[Path, int]:
    """The folder of the model to quantize, and its number of layers."""
    if name == shapes.DEMO:
        return shapes.demo(chosen.out, cut=chosen.rehearse), shapes.REHEARSED_LAYERS if chosen.rehearse else 30
    shape = shapes.SHAPES[name]
    return shapes.random_model(shape, chosen.out, shapes.tokenizer(chosen.data)), shape.quantized_layers


def quantize(
    chosen: Setting, model: Path, variant: str, program: str, out: Path, layers: int
) -> tuple[str, str, str, str]:
    """Seconds, peak memory, size and outcome."""
    if chosen.is_late(20):
        return NOT_RUN, "–", "–", "no time left"
    texts = chosen.data / "calibration.jsonl"
    if program == "bare":
        command = [sys.executable, "-c", BARE, str(model), str(texts), str(out)]
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        calibration, facts = REHEARSED if chosen.rehearse else MEASURED, out.with_suffix(".facts.json")
        command = compress_command(variant_named(variant), model, texts, calibration, out, facts)
    log = chosen.out / "logs" / f"quantize-{model.name}-{variant}-{program}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with watched() as watch, log.open("wb") as output:
        began = time.monotonic()
        limit_s = max(1.0, chosen.ends_at - time.time())
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        try:
            process = subprocess.run(
                command, stdout=output, stderr=output, env=environment, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return f"over {limit_s:.0f}", watch.gigabytes, "–", "cut off"
        took_s = time.monotonic() - began
    if process.returncode:
        return seconds(took_s), watch.gigabytes, "–", f"exit status {process.returncode}: {last_line(log)}"
    try:
        count = layers_in(out, model, out.with_suffix(".facts.json"))
    except PrerequisiteError as error:
        return seconds(took_s), watch.gigabytes, "–", str(error)
    expected = layers * LAYER_KINDS
    outcome = f"{count} layers" if count == expected else f"{count} layers, not {expected}"
    return seconds(took_s), watch.gigabytes, f"{weights_size(out) / 1e9:.2f}", outcome


def layers_in(out: Path, model: Path, facts: Path) -> int:
    """The number of quantized layers; they are checked where the program `compress` wrote which they should be."""
    if facts.exists():
        return len(check_compressed(out, model, layouts_in(facts)))
    names: set[str] = set()
    for file in out.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names |= set(tensors.keys())
    return sum(name.endswith(".weight_scale") for name in names)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "its log is empty"


if __name__ == "__main__":
    main()
