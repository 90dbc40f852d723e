"""Create the runs' account in MLflow, without administrator's rights; if it exists, set its password.

This script runs in the Job mlflow-account. The administrator is in ADMIN_USERNAME and ADMIN_PASSWORD, the account in
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, the server in MLFLOW_TRACKING_URI.
"""

import os
import sys

import requests

CREATED, EXISTS = 200, "RESOURCE_ALREADY_EXISTS"


def main() -> str:
    """Create the account or set its password; returns the error message, empty on success."""
    users = os.environ["MLFLOW_TRACKING_URI"].rstrip("/") + "/api/2.0/mlflow/users"
    admin = (os.environ["ADMIN_USERNAME"], os.environ["ADMIN_PASSWORD"])
    account = {
        "username": os.environ["MLFLOW_TRACKING_USERNAME"],
        "password": os.environ["MLFLOW_TRACKING_PASSWORD"],
    }
    if account["username"] == admin[0]:
        return "The runs' account is the administrator's. Set another user name in the Secret quantgate-mlflow."
    answer = requests.post(f"{users}/create", json=account, auth=admin, timeout=60)
    if answer.status_code != CREATED and EXISTS in answer.text:
        answer = requests.patch(f"{users}/update-password", json=account, auth=admin, timeout=60)
    return "" if answer.status_code == CREATED else f"MLflow answered {answer.status_code}: {answer.text[:500]}"


if __name__ == "__main__":
    sys.exit(main() or 0)
