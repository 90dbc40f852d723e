"""Compile the pipeline for a cluster into YAML for Kubeflow Pipelines."""

import re
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format  # type: ignore[import-untyped]
from kfp import compiler
from kfp.pipeline_spec import pipeline_spec_pb2

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import use_case_names
from quantgate.pipelines.cluster import Cluster, fitted

LITERALS = {"use_case": use_case_names}
"""Parameters with a fixed list of values, which Kubeflow's form shows as a drop-down list."""
COMMENT = re.compile(r"\A(?:#.*\n)*")


def write_pipeline(cluster: Cluster, out: Path) -> None:
    """Compile the pipeline for the cluster into `out`; raises PrerequisiteError when the file cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(fitted(cluster), str(out))
        out.write_text(with_literals(out.read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        raise PrerequisiteError(f"Cannot write {out}: {error.strerror}. Choose another file with --out.") from None


def with_literals(compiled: str) -> str:
    """The compiled pipeline with the allowed values of its parameters, which kfp's SDK 2.17.0 cannot write.

    The result is read back with the protobuf of the pipelines' format, which refuses a key or a value that it lacks.
    """
    spec, *others = yaml.safe_load_all(compiled)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    for name, values in LITERALS.items():
        parameters[name]["literals"] = list(values())
    checked(spec)
    comment = COMMENT.match(compiled)
    return f"{comment[0] if comment else ''}{yaml.dump_all([spec, *others], sort_keys=True)}"


def checked(spec: dict[str, Any]) -> pipeline_spec_pb2.PipelineSpec:
    """The pipeline as the format's own message; raises json_format.ParseError when it is not one."""
    return json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())


def labels(texts: list[str]) -> dict[str, str]:
    """The labels' values by name, from texts like `gpu=h100`; raises PrerequisiteError for another text."""
    parts = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, parts, strict=True):
        if not name or not equals:
            raise PrerequisiteError(f"--node {text} is not a label. Give one like gpu=h100.")
    return {name: value for name, _, value in parts}
