import hashlib
import re
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import environments
from quantgate.components.environments.serving_environment import serving_environment, serving_lock
from quantgate.components.environments.virtual_environment import (
    HASHED,
    TORCH_FOR_CUDA,
    Environment,
    InstallError,
    Stage,
    accelerator_here,
    part_of,
    pins_in,
)

ROOT = Path(environments.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {path.name: path for path in (environments.PROJECT_LOCK, serving_lock("cpu"), serving_lock("cuda"))}
ALL_LOCKS = [*LOCKS.values(), *environments.IMAGE_LOCKS, TORCH_FOR_CUDA]
SERVING_LOCKS = ["serving-cpu.txt", "serving-cuda.txt"]

ELSEWHERE = ("deepeval",)
"""Extras that no lock can have beside the others."""


def pins(lock_name: str) -> dict[str, str]:
    return pins_in(LOCKS[lock_name])


def requirements() -> list[str]:
    """The requirements of the project environment in pyproject.toml, without the references to its own extras."""
    extras = {name: extra for name, extra in PROJECT["optional-dependencies"].items() if name not in ELSEWHERE}
    declared = [*PROJECT["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    return [requirement for requirement in declared if not requirement.startswith("quantgate[")]


def package_of(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()


@pytest.mark.parametrize("requirement", requirements())
def test_the_project_lock_satisfies_pyproject(requirement: str) -> None:
    locked = pins("project.txt")
    assert package_of(requirement) in locked, "run `make lock`"
    if "==" in requirement:
        assert locked[package_of(requirement)] == requirement.partition("==")[2], "run `make lock`"


@pytest.mark.parametrize("lock_name", SERVING_LOCKS)
def test_a_serving_lock_satisfies_its_input(lock_name: str) -> None:
    requirements = pins_in(LOCKS[lock_name].with_suffix(".in"))
    assert requirements["torch"].lstrip("=") == pins("project.txt")["torch"]
    for package, version in requirements.items():
        assert pins(lock_name)[package] == version.lstrip("="), "run `make lock`"


@pytest.mark.parametrize("lock", ALL_LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_is_one_exact_version_with_hashes_for_each_package(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE).rstrip())
    pin = re.compile(
        r"([\w.-]+)==[\w.!]+(?: ; platform_machine == 'x86_64')?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)"
    )
    matches = [pin.fullmatch(entry) for entry in entries]
    assert [entry for entry, match in zip(entries, matches, strict=True) if match is None] == []
    assert [match[1] for match in matches if match] == sorted(pins_in(lock))


@pytest.mark.parametrize("lock_name", LOCKS)
def test_a_lock_contains_what_an_environment_starts_with(lock_name: str) -> None:
    assert {"pip", "setuptools", "torch"} <= pins(lock_name).keys()
    start = part_of(LOCKS[lock_name], "pip", "setuptools")
    assert re.findall(r"^\S+(?===)", start, re.MULTILINE) == ["pip", "setuptools"]
    assert start.count("--hash=sha256:") >= 2


def test_the_lock_of_torch_for_cuda_has_what_torch_brings_along() -> None:
    cuda = pins_in(TORCH_FOR_CUDA)
    assert {"torch", "triton", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= cuda.keys()
    assert cuda.items() <= pins("serving-cuda.txt").items()
    assert [name for name in cuda if name != "torch" and not environments.CUDA_PARTS.match(name)] == []


@pytest.mark.parametrize("package", environments.NEVER_FOR_SERVING)
@pytest.mark.parametrize("lock_name", SERVING_LOCKS)
def test_no_serving_lock_contains_a_package_that_breaks_transformers(lock_name: str, package: str) -> None:
    assert package not in pins(lock_name)


def test_a_machine_without_a_gpu_downloads_no_cuda_libraries() -> None:
    for lock_name in ("project.txt", "serving-cpu.txt"):
        assert not [name for name in pins(lock_name) if environments.CUDA_PARTS.match(name)]


def test_the_two_environments_need_different_versions_of_compressed_tensors() -> None:
    assert pins("project.txt")["compressed-tensors"] != pins("serving-cpu.txt")["compressed-tensors"]


def test_the_console_script_can_be_imported() -> None:
    (script,) = entry_points(group="console_scripts", name="quantgate")
    assert script.value == "quantgate.pipelines.cli.app:main"
    assert callable(script.load())


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A serving environment that looks complete."""
    environment = serving_environment(tmp_path / ".venv-serving", "cpu")
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    environment.stamp.write_text(environment.fingerprint())
    return environment


def test_a_complete_environment_is_kept(environment: Environment) -> None:
    assert environment.is_current()


def test_an_interrupted_environment_is_rebuilt(environment: Environment) -> None:
    environment.stamp.unlink()
    assert not environment.is_current()


def test_an_environment_with_other_pins_is_rebuilt(environment: Environment) -> None:
    environment.stamp.write_text("the fingerprint of another lock")
    assert not environment.is_current()


def test_an_environment_without_its_python_is_rebuilt(environment: Environment) -> None:
    environment.python.unlink()
    assert not environment.is_current()


def test_an_environment_for_a_gpu_is_a_separate_environment(environment: Environment) -> None:
    for_a_gpu = serving_environment(environment.folder, "cuda")
    assert for_a_gpu.fingerprint() != environment.fingerprint()


def test_a_moved_environment_is_rebuilt(environment: Environment, tmp_path: Path) -> None:
    folder = environment.folder.rename(tmp_path / "moved")
    assert not serving_environment(folder, "cpu").is_current()


def test_an_accelerator_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATOR", "cuda")
    assert accelerator_here() == "cuda"
    monkeypatch.setenv("ACCELERATOR", "tpu")
    with pytest.raises(InstallError, match="cpu, cuda"):
        accelerator_here()


WHEEL = {
    "tampered-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: tampered\nVersion: 1\n",
    "tampered-1.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tampered-1.dist-info/RECORD": "",
}


@pytest.mark.slow
@pytest.mark.fault("inputs", "a package index serves another file than the lock's", "not installed, and named")
def test_a_file_with_another_hash_than_the_locks_is_not_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "tampered-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in WHEEL.items():
            archive.writestr(name, text)
    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wrong = f"{'0' if right[0] != '0' else '1'}{right[1:]}"
    environment = Environment("serving", tmp_path / "environment", "cpu", tmp_path / "lock.txt")
    (environment.folder / "bin").mkdir(parents=True)
    environment.python.symlink_to(sys.executable)
    options = [*HASHED, "--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "installed")]
    for hash_, installed in ((wrong, False), (right, True)):
        environment.lock.write_text(f"tampered==1 \\\n    --hash=sha256:{hash_}\n")
        message = ""
        with environment.lock.open() as held:
            try:
                Stage(environment, held.fileno()).pip("1 package", *options, "-r", str(environment.lock))
            except InstallError as error:
                message = str(error)
        assert (tmp_path / "installed" / "tampered-1.dist-info").exists() is installed
        assert (message == "") is installed
        if not installed:
            assert message.startswith(
                "environment: 1 package failed. The index has other files than those that the lock lock.txt was made "
                f"of: tampered==1 (file://{wheel}). Nobody should install them"
            )
