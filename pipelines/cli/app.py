"""The command line: `quantgate run` and the commands around it.

An error that a user can fix is one message on stderr and exit status 2. `run` exits with 0 when the pipeline finishes,
whatever the verdicts are; with 1 when the pipeline fails; with 130 when it is interrupted. `gate` exits by its verdict.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated
from urllib.request import getproxies_environment

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes.scratch import use_own_folder
from quantgate.pipelines.cli import (
    benchmark_commands,
    card_command,
    cluster_commands,
    doctor_command,
    endpoint_commands,
    flows_command,
    gate_command,
    judge_commands,
    look_commands,
    mlflow_commands,
    power_command,
    rollout_command,
    run_command,
    schema_command,
    setup_command,
)
from quantgate.pipelines.exits import USER_ERROR
from quantgate.pipelines.terminal_output import print_text

FIRST_COMMANDS = ("setup", "run", "gate", "promote", "submit")
"""In the order in which people need them."""

app = typer.Typer(
    help="Quantize a language model, serve every variant, test it, and decide with evidence whether it may ship.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def print_version(wanted: bool) -> None:
    """Print the installed version and end."""
    if wanted:
        print_text(f"quantgate {version('quantgate')}")
        raise typer.Exit


@app.callback()
def first_commands(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Without a command: list the first ones; as with a command that is missing, exit status 2."""
    if context.invoked_subcommand is None:
        print_text(overview(context), to_stderr=True)
        raise typer.Exit(USER_ERROR)


app.command("run", short_help="Quantize, serve, test and judge a model on this machine.")(run_command.run)
app.command("setup", short_help="Make vLLM's environment; the first run does it too.")(setup_command.setup)
app.command("gate", short_help="Decide on saved results, lm-eval's included.")(gate_command.gate)
app.command("power", short_help="Show what a run can prove before it starts.")(power_command.power)
app.command("track")(mlflow_commands.track)
app.command("promote", short_help="Make a variant champion, if its verdict allows it.")(mlflow_commands.promote)
app.command("rollback")(mlflow_commands.rollback)
app.command("rollout", short_help="Write what serves a variant on KServe, as its verdict allows.")(
    rollout_command.rollout
)
app.command("card", short_help="Write a variant's model card.")(card_command.card)
app.command("eval")(endpoint_commands.evaluate)
app.command("flows", short_help="Test a served model in your application.")(flows_command.flows)
app.command("compare")(benchmark_commands.compare)
app.command("judge", short_help="Let a judge grade the replies of two models.")(judge_commands.judge)
app.command("arena", short_help="Let a judge compare the replies of two models, pair by pair.")(judge_commands.arena)
app.command("vibe", short_help="Let people compare the replies of two models, blind.")(judge_commands.vibe)
app.command("suites")(benchmark_commands.suites)
app.command("mirror")(benchmark_commands.mirror)
app.command("schema")(schema_command.schema)
app.command("compile")(cluster_commands.compile_pipeline)
app.command("submit", short_help="Run the pipeline on a cluster with Kubeflow Pipelines.")(cluster_commands.submit)
app.command("follow")(cluster_commands.follow)
app.command("schedule")(cluster_commands.schedule)
app.command("look", short_help="Start a run on a cluster if the model is new.")(look_commands.look)
app.command("listen")(look_commands.listen)
app.command("doctor", short_help="Examine a server, or a cluster before a run.")(doctor_command.doctor)
app.command(
    "lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(endpoint_commands.lm_eval_command)


def overview(context: typer.Context) -> str:
    """What `quantgate` prints alone: the commands that people need first, and where the others are."""
    commands = context.command.commands  # type: ignore[attr-defined]  # typer's group has them
    lines = [f"  quantgate {name:9} {commands[name].short_help}" for name in FIRST_COMMANDS]
    return "\n".join([f"{context.command.help}\n", *lines, "\nAll commands: quantgate --help"])


def main() -> None:
    """The console script `quantgate`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # otherwise a background job ignores SIGINT
        signal.signal(number, signal.default_int_handler)  # like Ctrl-C: every server is stopped, with a message
    with errors_as_messages():
        use_own_folder()
    spare_this_machine()
    answer(sys.argv[1:])


def spare_this_machine() -> None:
    """Let no library, in this process or in one that it starts, ask a proxy for a server on this machine.

    Our own clients of vLLM never do; MLflow's, S3's and Kubernetes' follow these variables.
    """
    proxies = getproxies_environment()
    if proxies:
        spared = ",".join(filter(None, [proxies.get("no"), "localhost,127.0.0.1,::1"]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = spared


def answer(arguments: list[str]) -> None:
    """Run the command of these arguments; exits with its status."""
    with errors_as_messages():
        app(arguments, prog_name="quantgate", standalone_mode=True)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print an error that a user can fix as one message, and exit."""
    try:
        yield
    except PrerequisiteError as error:
        print_text(f"quantgate: {error}", to_stderr=True)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print_text(
            f"quantgate: The disk is full: {error.filename or error}. Make room and run it again.", to_stderr=True
        )
        sys.exit(USER_ERROR)
