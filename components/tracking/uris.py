"""Tracking URIs: where MLflow stores its runs, and the command that opens them."""

import re
import shlex
import sys
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.results import RunResults

SQLITE = "sqlite:///"
PORT = 5000
"""The port on which `open_command` serves a store that is a file."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def local_tracking_uri(folder: Path) -> str:
    """The tracking URI of a store in one folder: `mlflow.db`, and the runs' files under `artifacts`."""
    return f"{SQLITE}{folder.resolve() / 'mlflow.db'}"


def artifact_location(tracking_uri: str) -> str | None:
    """Where a new experiment's files go: beside a SQLite database; None if the server decides.

    Without a location MLflow would write them to `mlruns` in the current folder. Raises PrerequisiteError for any other
    database. MLflow stores the location as an absolute URI: after a folder of results is moved, MLflow's page still
    shows its numbers but not its files.
    """
    if tracking_uri.startswith(SQLITE):
        return (sqlite_file(tracking_uri).parent / "artifacts").as_uri()
    if is_database(tracking_uri):
        raise PrerequisiteError(
            f"{without_password(tracking_uri)} is a database and stores no files: MLflow would write the run's to "
            f"{Path.cwd() / 'mlruns'}. Track to an MLflow server on that database, http://<server>, or create the "
            "experiment first: mlflow experiments create --experiment-name NAME --artifact-location s3://BUCKET/PREFIX"
        )
    return None


def is_database(tracking_uri: str) -> bool:
    """Whether MLflow would open the database itself instead of talking to a server."""
    return re.split(r"[:+]", tracking_uri, maxsplit=1)[0] in _DATABASES


def is_server(tracking_uri: str) -> bool:
    """Whether the URI is that of an MLflow server."""
    return tracking_uri.lower().startswith(("http://", "https://"))


def without_password(tracking_uri: str) -> str:
    """The URI with its user name and password replaced by `***`, safe to show and to store."""
    return re.sub(r"//[^/\s]*@", "//***@", tracking_uri)


def shown_uri(tracking_uri: str) -> str:
    """The URI to type in a command: without a password, a file by its path from the current folder."""
    if tracking_uri.startswith(SQLITE):
        return f"{SQLITE}{_from_here(sqlite_file(tracking_uri))}"
    return without_password(tracking_uri)


def open_command(tracking_uri: str, port: int = PORT) -> str:
    """The command that opens MLflow on the results, with paths relative to the current folder.

    The command for a database serves `http://127.0.0.1:<port>` until Ctrl-C; an MLflow server is opened in the browser.
    """
    if is_server(tracking_uri):
        return f"python3 -m webbrowser {shlex.quote(without_password(tracking_uri))}"
    store = shown_uri(tracking_uri)
    mlflow = _from_here(Path(sys.executable).with_name("mlflow"))
    return (
        f"MLFLOW_DISABLE_TELEMETRY=true {shlex.quote(str(mlflow))} ui --workers 1"
        f" --backend-store-uri {shlex.quote(store)} --port {port}"
    )


def sqlite_file(tracking_uri: str) -> Path:
    """The file that a `sqlite:///` URI names."""
    return Path(tracking_uri.removeprefix(SQLITE).partition("?")[0]).absolute()


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def own_store(results: str) -> str:
    """The tracking URI of an MLflow store in the results' folder; empty if the results are in a bucket."""

    run_results = RunResults(results)
    return local_tracking_uri(run_results.mlflow) if run_results.is_local else ""
