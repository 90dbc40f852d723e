"""JSON Schemas of the files that a user writes, for editors, from the models that read these files.

A schema describes the keys and the types of the values. The program checks more: for example that a limit names a
task of the suite.
"""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from components.benchmarks.custom import KINDS, Settings
from components.benchmarks.suite_file import SuiteFile
from components.errors import PrerequisiteError
from components.flow_cases.flow_file import FlowFile
from components.policies.policy import UseCase

SCHEMAS: dict[str, type[BaseModel]] = {
    "policy": UseCase,
    "suite": SuiteFile,
    "flow": FlowFile,
    "custom-task": Settings,
    **{f"{answer}-item": item for answer, item in KINDS.items()},
}
"""The model of each file; an item is one line of a custom task's `items.jsonl`."""


class UntitledFields(GenerateJsonSchema):
    """Pydantic's schema, without titles that repeat the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic calls it
        """No field has a title."""
        return False


def schema_text(name: str) -> str:
    """The JSON Schema of this name; raises PrerequisiteError, with the names, for an unknown one."""
    if name not in SCHEMAS:
        raise PrerequisiteError(f"Unknown schema {name!r}. Choose from: {', '.join(SCHEMAS)}.")
    schema = SCHEMAS[name].model_json_schema(schema_generator=UntitledFields)
    head = {"$schema": UntitledFields.schema_dialect, "title": f"quantgate {name}"}
    return json.dumps(head | {key: value for key, value in schema.items() if key != "title"}, indent=2) + "\n"
