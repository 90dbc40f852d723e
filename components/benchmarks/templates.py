"""The templates of lm-eval's definitions, rendered in Jinja's sandbox: a user's own definition cannot run code."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils

from quantgate.components.errors import PrerequisiteError


@contextmanager
def fitting(task: str) -> Iterator[None]:
    """Turn an error of the task's templates into a PrerequisiteError that names the task."""
    try:
        yield
    except TemplateError as error:
        raise PrerequisiteError(
            f"A template of {task} does not fit one of its rows: {error}. Correct its definition or the rows."
        ) from error


def use_sandbox() -> None:
    """Render every template of lm-eval in the sandbox from now on, and compile each once."""
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(utils.env.filters)
    environment.from_string = cache(environment.from_string)  # type: ignore[assignment,method-assign]  # lm-eval has none
    utils.env = environment
