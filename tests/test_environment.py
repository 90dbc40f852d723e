import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import environments
from components.environments.serving_environment import serving_environment, serving_lock
from components.environments.virtual_environment import Environment, InstallError, accelerator_here, pins_in

ROOT = Path(environments.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {path.name: path for path in (environments.PROJECT_LOCK, serving_lock("cpu"), serving_lock("cuda"))}
SERVING_LOCKS = ["serving-cpu.txt", "serving-cuda.txt"]


def pins(lock_name: str) -> dict[str, str]:
    return pins_in(LOCKS[lock_name])


def requirements() -> list[str]:
    """The requirements in pyproject.toml, without the references to its own extras."""
    declared = [
        *PROJECT["dependencies"],
        *(requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra),
    ]
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


@pytest.mark.parametrize("lock_name", LOCKS)
def test_every_line_of_a_lock_is_one_exact_version(lock_name: str) -> None:
    lines = LOCKS[lock_name].read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert len(packages) == len(pins(lock_name))
    assert {"pip", "setuptools", "torch"} <= pins(lock_name).keys()


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
    assert script.value == "pipelines.cli.app:main"
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
