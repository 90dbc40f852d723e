"""The images: linted, not running as root, and with exactly the versions of the locks."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import environments
from quantgate.components.environments.serving_environment import serving_lock
from quantgate.components.environments.virtual_environment import pins_in
from quantgate.components.servers import vllm_options
from quantgate.components.servers.llama_pod import LLAMA_COMMAND
from tests.support.kustomized import MANIFESTS, ROOT

IMAGES = MANIFESTS / "images"
CONTAINERFILES = sorted(IMAGES.glob("*.Containerfile"))
PROJECT_S = [file for file in CONTAINERFILES if file.stem != "vllm"]
"""Those that are built from Python's own image."""
VLLM_PLUGIN = ROOT / "components" / "servers" / "vllm_plugin"
HADOLINT = Path(sys.executable).with_name("hadolint")
HEAVY = {"torch", "llmcompressor", "accelerate", "triton", "compressed-tensors"}
LOCKED = pins_in(environments.PROJECT_LOCK)
LOCKS = environments.PROJECT_LOCK.parent


def text_of(name: str) -> str:
    return (IMAGES / f"{name}.Containerfile").read_text(encoding="utf-8")


def locked(image: str) -> set[str]:
    """The packages of an image's lock."""
    return set(pins_in(LOCKS / f"{image}.txt"))


def extras_of(name: str) -> set[str]:
    """The extras of the project that an image's lock is made of."""
    match = re.search(r"^\.\[([\w,]+)\]$", (LOCKS / f"{name}.in").read_text(encoding="utf-8"), re.MULTILINE)
    assert match
    return set(match[1].split(","))


def closure(*requested: str) -> set[str]:
    """Every package that pip installs for these requirements, by the metadata of the installed packages."""
    names: set[str] = set()
    done: set[tuple[str, str]] = set()
    waiting = [(Requirement(requirement), "") for requirement in requested]
    while waiting:
        requirement, _ = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in done:
                continue
            done.add((name, extra))
            names.add(name)
            waiting += [
                (requirement, extra)
                for requirement in map(Requirement, needs_of(name))
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            ]
    return names


def needs_of(package: str) -> list[str]:
    """A package's requirements; this project's come from the current pyproject.toml."""
    if package == "quantgate":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"].items()
        return [
            *project["dependencies"],
            *(f"{requirement}; extra == '{extra}'" for extra, all_ in optional for requirement in all_),
        ]
    try:
        return requires(package) or []
    except PackageNotFoundError:  # CUDA's libraries, which no machine without a GPU has
        return []


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.stem)
def test_hadolint_has_no_complaints(file: Path) -> None:
    done = subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_detects_a_known_fault(tmp_path: Path) -> None:
    bad = tmp_path / "Containerfile"
    bad.write_text("FROM python:latest\nRUN pip install httpx\n")
    output = subprocess.run([HADOLINT, "--no-color", bad], capture_output=True, text=True, check=False).stdout
    assert "DL3007" in output


@pytest.mark.parametrize("file", PROJECT_S, ids=lambda file: file.stem)
def test_an_image_is_pinned_and_does_not_run_as_root(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    last = re.split(r"^FROM .*$", text, flags=re.MULTILINE)[-1]
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", text, flags=re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-\w+", base)
    assert set(re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)) == {"${PYTHON}"}
    assert re.findall(r"^USER (\S+)$", text, flags=re.MULTILINE) == ["10001:0"]
    assert "USER" not in last.partition("USER 10001:0")[2]
    assert "COPY --from=build" in last
    assert "RUN" not in last, "what is installed is installed in the first stage"


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.stem)
def test_only_the_listed_files_and_no_secret_get_into_an_image(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"(?i)token|password|secret|index-url|^ADD ", text, flags=re.MULTILINE)
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE) for word in line.split()[:-1]
    ]
    assert copied
    for path in copied:
        assert path not in (".", "./"), "a copy of everything would take what lies about"
        assert (ROOT / path).exists(), path


@pytest.mark.fault(
    "inputs", "a package index serves another file for an image", "no image installs it: locks with hashes"
)
@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.stem)
def test_every_installation_uses_a_lock_with_hashes(file: Path) -> None:
    installed = re.findall(r"pip install((?:.|\\\n)*?)(?:&&|\n(?!\s))", file.read_text(encoding="utf-8"))
    assert installed
    for arguments in installed:
        words = arguments.replace("\\\n", " ").split()
        if words[-1] == ".":  # quantgate itself, which the earlier lines have everything for
            assert words == ["--no-deps", "--no-build-isolation", "."]
            continue
        assert words[:2] == ["--no-deps", "--require-hashes"]
        assert words[-2] == "-r"
        assert Path(words[-1]).name in ("build.txt", "torch-cuda.txt", f"{file.stem}.txt")


@pytest.mark.parametrize("lock", environments.IMAGE_LOCKS, ids=lambda lock: lock.stem)
def test_an_images_lock_has_the_versions_of_the_projects(lock: Path) -> None:
    assert {"pip", "setuptools"} <= pins_in(lock).keys()
    assert pins_in(lock).items() <= LOCKED.items()


def test_vllms_image_is_pinned_and_does_not_run_as_root() -> None:
    text = text_of("vllm")
    version = pins_in(serving_lock("cuda"))["vllm"]
    bases = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, flags=re.MULTILINE))
    assert bases["VLLM"] == f"docker.io/vllm/vllm-openai:v{version}" == vllm_options.VLLM_IMAGE
    assert f"VLLM_CPU := {vllm_options.VLLM_CPU_IMAGE}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == ["${PYTHON}", "${VLLM}"]
    assert text.rstrip().endswith("USER 10001:0")


@pytest.mark.slow
def test_the_wheel_of_vllms_image_contains_the_plugin_with_its_entry_point(tmp_path: Path) -> None:
    """The wheel for the image, and the folder that a server on this machine uses, name the same function."""
    source = shutil.copytree(VLLM_PLUGIN, tmp_path / "vllm_plugin")
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(tmp_path))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert f"/wheel/{wheel.name} " in text_of("vllm")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    (built,), (beside,) = (list(distributions(path=[str(folder)])) for folder in (installed, VLLM_PLUGIN))
    assert (built.name, built.version) == (beside.name, beside.version)
    (entry,) = built.entry_points
    assert entry in beside.entry_points
    assert entry.group == "vllm.general_plugins"
    module = f"{entry.module}.py"
    assert (installed / module).read_bytes() == (VLLM_PLUGIN / module).read_bytes()


def test_the_lean_image_has_neither_torch_nor_llm_compressor() -> None:
    packages = closure(f"quantgate[{','.join(extras_of('quantgate'))}]")
    assert {"lm-eval", "mlflow", "boto3", "kfp", "kubernetes", "scipy"} <= packages
    assert not packages & HEAVY
    assert not [name for name in packages if environments.CUDA_PARTS.match(name)]


def test_the_image_of_llama_cpp_has_its_server_and_no_step() -> None:
    """Its entry point is the server's program, which a step's image does not need."""
    assert extras_of("llama") == {"gguf"}
    assert {"xllamacpp", "gguf"} <= locked("llama")
    assert not locked("llama") & (HEAVY | {"lm-eval", "mlflow", "boto3"})
    program = text_of("llama").rstrip().rpartition("ENTRYPOINT ")[2]
    assert tuple(json.loads(program)) == LLAMA_COMMAND


def test_the_quantize_image_adds_the_quantization_packages_to_the_lean_one() -> None:
    assert extras_of("quantize") - extras_of("quantgate") == {"quantize"}
    assert extras_of("quantize") > extras_of("quantgate")
    packages = closure(f"quantgate[{','.join(extras_of('quantize'))}]")
    assert {"torch", "llmcompressor", "compressed-tensors"} <= packages


@pytest.mark.parametrize(("name", "apart"), [("quantgate", set()), ("quantize", {"torch"}), ("llama", set())])
def test_an_images_lock_pins_every_package_of_the_image(name: str, apart: set[str]) -> None:
    packages = closure(f"quantgate[{','.join(extras_of(name))}]") - {"quantgate", *apart}
    assert {package for package in packages if not environments.CUDA_PARTS.match(package)} <= locked(name)


def test_the_lock_of_mlflows_image_pins_every_package() -> None:
    lines = (LOCKS / "mlflow.in").read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if not line.startswith("#")]
    assert not [line for line in requirements if "==" in line], "take the project lock's version"
    assert closure(*requirements) <= locked("mlflow")


def test_the_manifests_use_the_images_that_are_built_here() -> None:
    versions = (IMAGES / "kustomization.yaml").read_text(encoding="utf-8")
    look = (MANIFESTS / "recurring" / "look.yaml").read_text(encoding="utf-8")
    for options, server in (([], "quantgate-vllm"), (["CPU=1"], "quantgate-vllm-cpu")):
        dry_run = ["make", "--dry-run", "images", "DOCKER=podman", "PUSH=1", *options]
        lines = subprocess.run(dry_run, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
        form = re.compile(r"podman build -f (\S+)(?: --build-arg VLLM=\S+-cpu:\S+)? -t (\S+) \. && podman push (\S+)")
        matches = [form.fullmatch(line) for line in lines]
        built = {match[1]: match[2] for match in matches if match and match[2] == match[3]}
        assert built.keys() == {str(file.relative_to(ROOT)) for file in CONTAINERFILES}
        assert built["manifests/images/vllm.Containerfile"].startswith(f"registry.example.com/quantgate/{server}:")
        for tag in built.values():
            name, _, version = tag.rpartition(":")
            named = rf"newName: {re.escape(name)}\n    newTag: {re.escape(version)}\n"
            assert tag in look or re.search(named, versions), tag
