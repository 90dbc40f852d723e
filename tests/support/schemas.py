"""The published schemas of Kubernetes and of KServe, to validate objects.

Kubernetes' are the strict ones of the package kubernetes-validate. KServe's are its own classes: the Python package's
models are generated from KServe's OpenAPI document and keep it as two literals each, the fields' types and their names
in JSON. They are read as text; nothing of the package is run or installed.
"""

import ast
import json
import re
import zipfile
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema

from quantgate.components.models.wheels import wheel
from quantgate.components.storage.cache import cache_dir

VERSIONS = ("1.31", "1.35", "1.37")
"""Of Kubernetes: the oldest that the manifests are meant for, the one that was tried, and the newest with schemas."""

PACKAGE, VERSION = "kserve", "0.21.0"
WHEEL_SHA256 = "df9bc5888704d9085015e08f1a8fced5ff0698f3becc6212d4e7b8234c71623b"
MODEL_FILE = re.compile(r"kserve/models/v\d\w+\.py")
KSERVE = {
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}
PLAIN: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "object": {},
    "datetime": {"type": "string"},
}
REQUIRED = re.compile(r"Invalid value for `(\w+)`, must not be `None`")


def check(body: dict[str, Any], version: str = VERSIONS[0]) -> None:
    """Hold an object against its schema in that version of Kubernetes; raises jsonschema.ValidationError.

    KeyError means that neither Kubernetes nor KServe has such a kind.
    """
    what = (body["apiVersion"], body["kind"])
    validator_of(KSERVE.get(what) or kinds(version)[what], VERSIONS[-1] if what in KSERVE else version).validate(body)


@cache
def validator_of(definition: str, version: str) -> jsonschema.Draft202012Validator:
    """What checks an object against one definition, and those that it refers to."""
    schemas = kserve() if definition in KSERVE.values() else kubernetes(version)
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": schemas})


@cache
def kubernetes(version: str) -> dict[str, Any]:
    """Every definition of Kubernetes, by its name."""
    folder = files("kubernetes_validate").joinpath("kubernetes-json-schema")
    text = folder.joinpath(f"v{version}.0-local-strict/_definitions.json").read_text(encoding="utf-8")
    definitions: dict[str, Any] = json.loads(re.sub(r'"[^"]*_definitions\.json#', '"#', text))["$defs"]
    return definitions


@cache
def kinds(version: str) -> dict[tuple[str, str], str]:
    """The definition of each kind, by apiVersion and kind."""
    return {
        (f"{kind['group']}/{kind['version']}".lstrip("/"), kind["kind"]): name
        for name, definition in kubernetes(version).items()
        for kind in definition.get("x-kubernetes-group-version-kind", ())
    }


@cache
def kserve() -> dict[str, Any]:
    """Every class of KServe's, with the definitions of Kubernetes that they refer to."""
    schemas = dict(kubernetes(VERSIONS[-1]))
    # the core group last: of two classes of one name it is meant
    ordered = sorted(schemas, key=lambda name: ".api.core." in name)
    names = {python_name(name): name for name in ordered} | {go_name(name): name for name in ordered}
    with zipfile.ZipFile(wheel(PACKAGE, VERSION, WHEEL_SHA256, cache_dir())) as package:
        for member in filter(MODEL_FILE.fullmatch, package.namelist()):
            name, schema = class_schema(package.read(member).decode(), names)
            schemas[name] = schema
    return schemas


def python_name(definition: str) -> str:
    """The Python client's name of a definition: V1Container of io.k8s.api.core.v1.Container."""
    *_, version, kind = definition.split(".")
    return version.capitalize() + kind


def go_name(definition: str) -> str:
    """The name that tells groups apart: K8sIoApiAppsV1DeploymentStrategy of io.k8s.api.apps.v1.DeploymentStrategy."""
    path, _, kind = definition.partition("io.k8s.")[2].rpartition(".")
    return f"K8sIo{path.title().replace('.', '')}{kind}"


def class_schema(source: str, names: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The class in a generated module, and what it says of its fields."""
    class_definition = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    literals = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in class_definition.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    in_json = literals["attribute_map"]
    return class_definition.name, {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            in_json[field]: type_schema(type_name, names) for field, type_name in literals["openapi_types"].items()
        },
        "required": sorted({in_json[field] for field in REQUIRED.findall(source)}),
    }


def type_schema(type_name: str, names: dict[str, str]) -> dict[str, Any]:
    """The schema of a type as the generator writes it: `list[V1Container]`, `dict(str, str)`, `V1beta1ModelSpec`."""
    if match := re.fullmatch(r"list\[(.+)\]", type_name):
        return {"type": "array", "items": type_schema(match[1], names)}
    if match := re.fullmatch(r"dict\(str, (.+)\)", type_name):
        return {"type": "object", "additionalProperties": type_schema(match[1], names)}
    return PLAIN.get(type_name) or {"$ref": f"#/$defs/{names.get(type_name, type_name)}"}
