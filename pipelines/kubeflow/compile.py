"""Compile the pipeline for a cluster into YAML for Kubeflow Pipelines."""

from pathlib import Path

from kfp import compiler

from components.errors import PrerequisiteError
from pipelines.cluster import Cluster, fitted


def write_pipeline(cluster: Cluster, out: Path) -> None:
    """Compile the pipeline for the cluster into `out`; raises PrerequisiteError when the file cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(fitted(cluster), str(out))
    except OSError as error:
        raise PrerequisiteError(f"Cannot write {out}: {error.strerror}. Choose another file with --out.") from None


def labels(texts: list[str]) -> dict[str, str]:
    """The labels' values by name, from texts like `gpu=h100`; raises PrerequisiteError for another text."""
    parts = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, parts, strict=True):
        if not name or not equals:
            raise PrerequisiteError(f"--node {text} is not a label. Give one like gpu=h100.")
    return {name: value for name, _, value in parts}
