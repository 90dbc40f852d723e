"""The GPU benchmark: quantize, serve, score, generate. For a machine with an NVIDIA GPU and no network.

    python -m benchmarks.gpu.run --out DIR --data DATA [--only a,c] [--seconds 700]
    python -m benchmarks.gpu.run --out DIR --data DATA --rehearse

    a  quantize   llm-compressor: seconds and peak GPU memory of each variant, and of a bare script
    b  serve      vLLM on each variant of the demo model: seconds to ready, its answers compared with the CPU's
    c  score      quantgate's scoring compared with lm-eval's two clients, on the same items
    d  speed      output tokens a second and time to the first token of each variant

Run it from the repository's root, with the project's Python; vLLM's is `.venv-serving` beside it, or
$QUANTGATE_SERVING_PYTHON. `python -m benchmarks.gpu.carry` prepares the files for such a machine, and
`benchmarks/gpu/join.py` unpacks them there. DATA is a folder with rows as JSON lines (ai2_arc/ARC-Challenge, hellaswag,
mmlu, gsm8k) and `calibration.jsonl`. Each part is a separate process and saves its table row by row, so that an
interrupted run keeps its measurements. `--rehearse` needs no GPU: the demo model cut to two layers, vLLM's CPU build,
few items.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import machine
from quantgate.components.servers.local_vllm import serving_python

PARTS = {"a": "quantizing", "b": "serving", "c": "scoring", "d": "throughput"}
TABLES = ("machine", "quantize", "serve", "score", "speed")
GRACE_S = 20
ON_A_GPU = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
"""carry.py does not transfer FlashInfer, which vLLM would import."""


def main() -> int:
    """Run the parts in turn; returns 1 if one of them failed."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    machine.describe(options.out, serving_python())
    ends_at = time.monotonic() + options.seconds
    failed = []
    for letter in options.only:
        left_s = ends_at - time.monotonic()
        print(f"== {letter}: {PARTS[letter]}, {left_s:.0f} s left", flush=True)
        if left_s < 1 or run(PARTS[letter], options, left_s) != 0:
            failed.append(letter)
    print(report(options.out))
    if failed:
        print(f"Failed or cut off: {', '.join(failed)}. Their output is in {options.out}/logs.", file=sys.stderr)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for tables, weights and logs")
    parser.add_argument("--data", type=Path, required=True, help="folder with the benchmarks' rows")
    parser.add_argument("--only", default="a,b,c,d", help="the parts to run, comma-separated")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: a cut model, few items")
    parser.add_argument("--items", type=int, default=0, help="benchmark items a task [200; 2 in a rehearsal]")
    parser.add_argument(
        "--models",
        default="",
        help="of a: demo, llama-3.2-1b, llama-3.1-8b, or a variant: demo.int8; of c: models; of b, d: variants [all]",
    )
    parser.add_argument("--seconds", type=float, default=700, help="time for all parts together [700]")
    options = parser.parse_args()
    options.only = [letter.strip() for letter in options.only.split(",")]
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    options.items = options.items or (2 if options.rehearse else 200)
    return options


def run(part: str, options: argparse.Namespace, left_s: float) -> int:
    """Run one part; returns its exit status, or that of a killed process after a timeout."""
    command = [sys.executable, "-m", f"benchmarks.gpu.{part}", "--out", str(options.out), "--data", str(options.data)]
    command += ["--items", str(options.items), "--seconds", str(left_s), "--models", options.models]
    command += ["--rehearse"] if options.rehearse else []
    log = options.out / "logs" / f"{part}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        environment = os.environ | ({} if options.rehearse else ON_A_GPU) | {"PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stderr=errors, env=environment)
        try:
            return process.wait(left_s + GRACE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # its servers end too: their guards watch its lease
            try:
                return process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


def report(out: Path) -> str:
    """All tables, as Markdown."""
    files = [file for name in TABLES for file in sorted(out.glob(f"{name}*.md"))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


if __name__ == "__main__":
    sys.exit(main())
