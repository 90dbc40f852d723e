"""The Jinja templates of a folder of components, all with the same settings."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates_of(folder: str, *, autoescape: bool, finalize: Callable[..., Any] | None = None) -> Environment:
    """The templates in `components/FOLDER`; an undefined name in one of them raises UndefinedError.

    `finalize` changes each value before it is written.
    """
    return Environment(
        loader=PackageLoader("quantgate.components", folder),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
