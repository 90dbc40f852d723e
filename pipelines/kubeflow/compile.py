"""The pipeline as the YAML that Kubeflow Pipelines takes, fitted to a cluster."""

from pathlib import Path

from kfp import compiler

from components.errors import PrerequisiteError
from pipelines.cluster import Cluster, fitted


def write_pipeline(cluster: Cluster, out: Path) -> None:
    """Compile the pipeline for that cluster into the file; raises PrerequisiteError when it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(fitted(cluster), str(out))
    except OSError as error:
        raise PrerequisiteError(f"Cannot write {out}: {error.strerror}. Choose another file with --out.") from None


def labels(given: list[str]) -> dict[str, str]:
    """Labels by name; raises PrerequisiteError for what is none."""
    found = [each.partition("=") for each in given]
    for text, (name, equals, _) in zip(given, found, strict=True):
        if not name or not equals:
            raise PrerequisiteError(f"--node {text} is no label. Give one like gpu=h100.")
    return {name: value for name, _, value in found}
