"""The command `quantgate schema`: the JSON Schema of a file that a user writes."""

from typing import Annotated

import typer

from quantgate.pipelines.schemas import SCHEMAS, schema_text
from quantgate.pipelines.terminal_output import print_text


def schema(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SCHEMAS)}.", show_default=False)],
) -> None:
    """Print the JSON Schema of a file that you write: editors complete and check the file with it."""
    print_text(schema_text(name).rstrip("\n"))
