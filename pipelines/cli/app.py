"""The command line: `quantgate run` and the commands around it.

An error that a user can fix is one message on stderr and exit status 2. `run` exits with 0 when the pipeline finishes,
whatever the verdicts are; with 1 when the pipeline fails; with 130 when it is interrupted. `gate` exits by its verdict.
"""

import errno
import signal
import sys

import typer

from components.errors import PrerequisiteError
from pipelines.cli import (
    benchmark_commands,
    cluster_commands,
    endpoint_commands,
    gate_command,
    mlflow_commands,
    run_command,
)
from pipelines.exits import USER_ERROR

app = typer.Typer(
    help="Quantize a language model, serve every variant, test it, and decide with evidence whether it may ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("run")(run_command.run)
app.command("gate")(gate_command.gate)
app.command("track")(mlflow_commands.track)
app.command("promote")(mlflow_commands.promote)
app.command("rollback")(mlflow_commands.rollback)
app.command("eval")(endpoint_commands.evaluate)
app.command("compare")(benchmark_commands.compare)
app.command("suites")(benchmark_commands.suites)
app.command("mirror")(benchmark_commands.mirror)
app.command("compile")(cluster_commands.compile_pipeline)
app.command("submit")(cluster_commands.submit)
app.command("follow")(cluster_commands.follow)
app.command("schedule")(cluster_commands.schedule)
app.command("doctor")(endpoint_commands.doctor)
app.command(
    "lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(endpoint_commands.lm_eval_command)


def main() -> None:
    """The console script `quantgate`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # otherwise a background job ignores SIGINT
        signal.signal(number, signal.default_int_handler)  # like Ctrl-C: every server is stopped, with a message
    answer(sys.argv[1:])


def answer(arguments: list[str]) -> None:
    """Run the command of these arguments; exits with its status."""
    try:
        app(arguments, standalone_mode=True)
    except PrerequisiteError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"quantgate: The disk is full: {error.filename or error}. Make room and run it again.", file=sys.stderr)
        sys.exit(USER_ERROR)
