"""The templates of lm-eval's definitions, rendered in Jinja's sandbox: a user's own definition cannot run code."""

from functools import cache

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils


def use_sandbox() -> None:
    """Render every template of lm-eval in the sandbox from now on, and compile each once."""
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(utils.env.filters)
    environment.from_string = cache(environment.from_string)  # type: ignore[assignment,method-assign]  # lm-eval has none
    utils.env = environment
