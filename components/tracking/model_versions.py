"""The newest version of a registered model in MLflow, as a source of runs."""

import re

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.published import NotPublishedError, Published, published
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.tags import VARIANT_TAG

SCHEME = "models:/"
NAME = re.compile(r"[^/@':]+")
READABLE = "s3://"
"""What MLflow takes as the place of a version, and every step of a run can read."""


def registered_name(source: str) -> str:
    """The registered model that `models:/NAME` names; raises PrerequisiteError for another form."""
    name = source.removeprefix(SCHEME)
    if not source.startswith(SCHEME) or not NAME.fullmatch(name):
        raise PrerequisiteError(f"{source!r} names no registered model of MLflow. Write it like {SCHEME}NAME.")
    return name


def newest_version(source: str, tracking_uri: str) -> Published:
    """The newest version of the registered model that `models:/NAME` names.

    Raises NotPublishedError when it has no version that is ready, and PrerequisiteError when MLflow cannot be reached,
    when a run could not read the version's source, or when the versions are variants that quantgate has registered.
    """
    name = registered_name(source)
    with connected(tracking_uri, f"list the versions of {name}") as client:
        versions = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"], max_results=100)
        newest = next((version for version in versions if version.status == "READY"), None)
        if newest is None:
            raise NotPublishedError(f"MLflow has no version of {name} that is ready.")
        if VARIANT_TAG in newest.tags:
            raise PrerequisiteError(
                f"{name} holds variants that quantgate has registered, so each run would start the next one. Give the "
                "registered model of the base model."
            )
        place = str(client.get_model_version_download_uri(name, newest.version)).rstrip("/")
    if not place.startswith(READABLE):
        raise PrerequisiteError(
            f"Version {newest.version} of {name} lies at {place}, which a run cannot read. Register the folder that "
            f"save_pretrained wrote, in S3: create_model_version({name!r}, source='s3://BUCKET/PREFIX')."
        )
    return published(place, f"version {newest.version} of {name}, {place}", f"{name}/{newest.version}")
