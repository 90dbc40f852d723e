"""Which variants this machine writes, and which of them vLLM serves here with the right answers.

    python -m benchmarks.variants_served [--variants NAME,NAME] [--whole]

Each row of the variants' table is written by llm-compressor from the demo model's first two layers (`--whole`: from all
30), checked, served by the installed vLLM, and asked multiple-choice questions. Its log-likelihoods are compared with
those of transformers on the same checkpoint in float32. The table is printed row by row; docs/results.md has it.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.calibration_file import write_passages
from benchmarks.gpu import shapes
from benchmarks.gpu.serving import ask, distance_from_cpu
from quantgate.components.benchmarks.embedded import embedded
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import weights_size
from quantgate.components.models.variants import VARIANTS, Variant
from quantgate.components.processes import lease
from quantgate.components.quantize.check import check_compressed, worst
from quantgate.components.quantize.quantization import compress_command, errors_beside, layouts_in
from quantgate.components.run.calibration import Calibration
from quantgate.components.servers import local_server, local_vllm

CALIBRATION = Calibration(samples=8, tokens=128)
QUESTIONS = 8
TOLERANCE = 0.1
"""Of a token's log-likelihood, in nats: what bf16 and a kernel's own rounding of activations may differ by."""


def main() -> None:
    """Write, check, serve and ask each variant, and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated [all]")
    parser.add_argument("--whole", action="store_true", help="all layers of the demo model")
    options = parser.parse_args()
    print("| variant | written and checked | seconds | MB | largest change of a layer | served here |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="quantgate-variants-") as scratch:
        folder = Path(scratch)
        model = shapes.demo(folder, cut=not options.whole)
        pairs = questions()
        for name in options.variants.split(","):
            cells = [name, *written(VARIANTS[name], model, folder / name)]
            cells.append(served(VARIANTS[name], folder / name / "model", folder / name, pairs))
            print(f"| {' | '.join(cells)} |", flush=True)


def questions() -> list[tuple[str, list[str]]]:
    """The first items of PIQA: the context and the two choices."""
    from datasets import Dataset

    rows = Dataset.from_file(str(embedded("piqa").file)).select(range(QUESTIONS))
    return [(f"Question: {row['goal']}\nAnswer:", [f" {row['sol1']}", f" {row['sol2']}"]) for row in rows]


def written(variant: Variant, model: Path, folder: Path) -> list[str]:
    """Outcome of writing and checking, seconds, megabytes and the largest change."""
    folder.mkdir()
    out, facts = folder / "model", folder / "facts.json"
    if not variant.quantized:
        out.symlink_to(model)
        return ["unchanged", "–", f"{weights_size(model) / 1e6:.0f}", "–"]
    texts = write_passages(folder / "calibration.jsonl", CALIBRATION.samples)
    if variant.sensitive_share:
        written(variant.even, model, folder / "even")
        even = check_compressed(folder / "even" / "model", model, layouts_in(folder / "even" / "facts.json"))
        errors_beside(facts).write_text(json.dumps(even), encoding="utf-8")
    command = compress_command(variant, model, texts, CALIBRATION, out, facts)
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = f"{time.monotonic() - began:.0f}"
    if done.returncode:
        return [f"no: {done.stderr.strip().splitlines()[-1][:150]}", took, "–", "–"]
    try:
        errors = check_compressed(out, model, layouts_in(facts), transform=variant.transform)
    except PrerequisiteError as error:
        return [f"no: {error}", took, "–", "–"]
    change = next((f"{error:.1%}" for error in worst(errors, 1).values()), "–")
    return ["yes", took, f"{weights_size(out) / 1e6:.0f}", change]


def served(variant: Variant, model: Path, folder: Path, pairs: list[tuple[str, list[str]]]) -> str:
    """Whether vLLM serves it, and how far its answers are from those of the checkpoint."""
    if not (model / "config.json").exists():
        return "–"
    with lease.hold(folder / "lease"):
        server = local_vllm.deploy(variant.name, model, folder)
        try:
            (_, _, outcome), logliks = ask(server, pairs)
        finally:
            local_server.undeploy(server)
    if not logliks:
        return f"no: {outcome}"
    distance, same = distance_from_cpu(model, pairs, logliks)
    right = "yes" if distance <= TOLERANCE else "NO"
    return f"{right}: {distance:.3f} nats a token from the checkpoint, same choice in {same}"


if __name__ == "__main__":
    main()
