"""The addresses of MLflow's own pages."""

import json
from collections.abc import Iterable
from urllib.parse import quote

from quantgate.components.tracking.uris import PORT, is_server, without_password

HERE = f"http://127.0.0.1:{PORT}/"
"""The address at which the command of `open_command` serves a store that is a file."""
_VIEW = "workflowType=machine_learning"
"""Makes the page show the menu for runs and metrics; by default MLflow shows the one for traces of chats."""


def run_page(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """The page of one run; for a store that is a file, only the part after the address."""
    return f"{_address(tracking_uri)}#/experiments/{experiment_id}/runs/{run_id}?{_VIEW}"


def compare_page(tracking_uri: str, experiment_ids: Iterable[str], run_ids: Iterable[str]) -> str:
    """The page that shows these runs side by side; for a store that is a file, only the part after the address."""
    return f"{_address(tracking_uri)}#/compare-runs?runs={_json(run_ids)}&experiments={_json(experiment_ids)}&{_VIEW}"


def full_address(page: str) -> str:
    """The page's full address; for a store that is a file, the one that the command of `open_command` serves."""
    return page if is_server(page) else HERE + page


def _address(tracking_uri: str) -> str:
    return without_password(tracking_uri).rstrip("/") + "/" if is_server(tracking_uri) else ""


def _json(ids: Iterable[str]) -> str:
    return quote(json.dumps(list(dict.fromkeys(ids)), separators=(",", ":")))
