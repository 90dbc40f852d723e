"""Where MLflow keeps its runs, and how a person opens them."""

import re
import shlex
import sys
from pathlib import Path

from components.errors import PrerequisiteError
from components.run.results import RunResults

SQLITE = "sqlite:///"
PORT = 5000
"""On which `open_command` serves a store that is a file."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def local_tracking_uri(folder: Path) -> str:
    """The tracking URI of a store in one folder: `mlflow.db`, and the runs' files under `artifacts`."""
    return f"{SQLITE}{folder.resolve() / 'mlflow.db'}"


def artifact_location(tracking_uri: str) -> str | None:
    """Where a new experiment's files go: beside a SQLite database; None where the server decides.

    Without it MLflow would put them in `mlruns` under whatever folder the process runs in: raises PrerequisiteError for
    any other database. MLflow stores the location as an absolute URI: a folder of results that is moved keeps its
    numbers, but loses its files in MLflow's page.
    """
    if tracking_uri.startswith(SQLITE):
        return (sqlite_file(tracking_uri).parent / "artifacts").as_uri()
    if is_database(tracking_uri):
        raise PrerequisiteError(
            f"{without_password(tracking_uri)} is a database and keeps no files: MLflow would leave the run's under "
            f"{Path.cwd() / 'mlruns'}. Track to an MLflow server on that database, http://<server>, or make the "
            "experiment before: mlflow experiments create --experiment-name NAME --artifact-location s3://BUCKET/PREFIX"
        )
    return None


def is_database(tracking_uri: str) -> bool:
    """True where MLflow would open a database itself rather than speak to a server."""
    return re.split(r"[:+]", tracking_uri, maxsplit=1)[0] in _DATABASES


def is_server(tracking_uri: str) -> bool:
    """True where an MLflow server answers at the URI."""
    return tracking_uri.startswith(("http://", "https://"))


def without_password(tracking_uri: str) -> str:
    """The URI as it may be shown and stored: a user name and a password in it become `***`."""
    return re.sub(r"//[^/\s]*@", "//***@", tracking_uri)


def shown_uri(tracking_uri: str) -> str:
    """The URI for a command to type: without a password, a file by its short path from the current folder."""
    if tracking_uri.startswith(SQLITE):
        return f"{SQLITE}{_from_here(sqlite_file(tracking_uri))}"
    return without_password(tracking_uri)


def open_command(tracking_uri: str, port: int = PORT) -> str:
    """The command that opens MLflow on the results, with paths short for a terminal in the current folder.

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
    """The tracking URI of an MLflow store in the results' folder; empty where they are in a bucket."""

    kept = RunResults(results)
    return local_tracking_uri(kept.mlflow) if kept.is_local else ""
