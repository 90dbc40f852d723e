"""What people install: one package with its data files and one version; the steps' entries for Kubeflow's catalogue."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from tests.support.command import quantgate

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
TAG = re.compile(
    r"quantgate(?:-quantize)?(?::|-)(\d+\.\d+\.\d+)\b|newName: \S+/quantgate\n\s+newTag: (\S+)|targetRevision: v(\d\S+)"
)
BARE = re.compile(
    r"^[\s\"]*(?:from|import) (?:components|pipelines)[. ]|PackageLoader\(\"(?:components|pipelines)\"", re.MULTILINE
)


def test_nothing_imports_the_folders_by_their_bare_names() -> None:
    """In a checkout `import components` works too, but gives a second copy of every module, and fails in a wheel."""
    folders = ("components", "pipelines", "tests", "benchmarks", "notebooks")
    sources = [file for folder in folders for kind in ("*.py", "*.ipynb") for file in (ROOT / folder).rglob(kind)]
    assert [str(file) for file in sources if BARE.search(file.read_text(encoding="utf-8"))] == []


def test_the_version_is_pyprojects_everywhere() -> None:
    assert quantgate("--version").stdout == f"quantgate {VERSION}\n"
    folders, kinds = ("manifests", "docs", "pipelines", "components"), ("*.yaml", "*.md", "*.py", "*.Containerfile")
    files = [file for folder in folders for kind in kinds for file in (ROOT / folder).rglob(kind)]
    tags = {
        (file.relative_to(ROOT), *filter(None, tag))
        for file in files
        for tag in TAG.findall(file.read_text(encoding="utf-8"))
    }
    assert len(tags) >= 9
    assert {tag for tag in tags if tag[1] != VERSION} == set()


FOR_BUILDING = re.compile(r"pyproject\.toml|.+\.in")
"""What the images and the locks are made from, not what runs."""


@pytest.mark.parametrize(
    "file", sorted((ROOT / "components").glob("*/metadata.yaml")), ids=lambda file: file.parent.name
)
def test_a_steps_metadata_has_the_form_of_kubeflows_catalogue(file: Path) -> None:
    """The rules of scripts/validate_metadata in kubeflow/pipelines-components: these fields, in this order."""
    metadata = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert list(metadata) == ["name", "stability", "dependencies", "tags", "lastVerified"]
    assert metadata["name"] == file.parent.name
    assert metadata["stability"] in ("experimental", "alpha", "beta", "stable")
    kubeflow, services = metadata["dependencies"]["kubeflow"], metadata["dependencies"].get("external_services", [])
    assert "Pipelines" in {dependency["name"] for dependency in kubeflow}
    assert all(re.fullmatch(r"(>=|<=|==)?\d+\.\d+\.\d+", dependency["version"]) for dependency in kubeflow + services)
    assert all(isinstance(tag, str) for tag in metadata["tags"])
    assert isinstance(metadata["lastVerified"], datetime)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy: setuptools writes beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("components", "pipelines", "quantgate"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_adds_one_name_and_holds_every_file(wheel: Path) -> None:
    assert wheel.name == f"quantgate-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        members = set(archive.namelist())
    assert {member.split("/")[0] for member in members} == {"quantgate", f"quantgate-{VERSION}.dist-info"}
    sources = {
        f"quantgate/{file.relative_to(ROOT)}"
        for folder in ("components", "pipelines")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not FOR_BUILDING.fullmatch(file.name)
    }
    assert sources - members == set()


@pytest.mark.slow
def test_an_installed_wheel_needs_no_checkout(wheel: Path, tmp_path: Path) -> None:
    """It runs outside of the checkout; -S leaves out the editable install, and only the dependencies are shared."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    paths = [str(tmp_path / "installed"), sysconfig.get_path("purelib")]
    code = f"import sys; sys.path += {paths}; from quantgate.pipelines.cli.app import main; main()"
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-I", "-S", "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True).stdout

    assert "openllm" in run("suites")
    for name in ("base", "int8"):
        reply = {"question_id": "1", "model_id": name, "choices": [{"index": 0, "turns": [f"I am {name}."]}]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(reply))
    (tmp_path / "prompts.jsonl").write_text('{"id": "1", "prompt": "Who are you?"}')
    run("vibe", "prompts.jsonl", "--baseline", "base.jsonl", "--variant", "int8.jsonl", "--out", "vibe")
    assert "I am int8." in (tmp_path / "vibe" / "page" / "vibe.html").read_text(), "templates are in the wheel"
    assert "compiled.yaml" in run("compile", "-o", "compiled.yaml")
    compiled = (tmp_path / "compiled.yaml").read_text(encoding="utf-8")
    assert compiled == (ROOT / "manifests" / "pipeline.yaml").read_text(encoding="utf-8")
