"""Weights as an OCI image, which KServe calls a ModelCar: the model's files lie in /models of the image.

Source: KServe's documentation, "Serving Models with OCI Images". The image needs a shell: KServe links /mnt/models to
the files in the running container, whose user it sets itself. The build compares each file with the sha256 that the
store recorded, so the image has the weights that were judged or does not exist.
"""

from pydantic import ValidationError

from quantgate.components.models.digest import UNREAD, combined
from quantgate.components.rollout.kserve_services import Release
from quantgate.components.rollout.storage_address import OCI
from quantgate.components.storage.location import open_store
from quantgate.components.storage.store import MARKER, Marker

BASE = "docker.io/library/busybox:1.37"
SUMS = "SHA256SUMS"
MODEL = "model"
"""The folder of the build's context with the model's files."""


def containerfile(release: Release) -> str:
    """The Containerfile of the release's image."""
    image = release.uri.removeprefix(OCI)
    lines = (
        f"# The weights of {release.variant}. Put their files into {MODEL}/ beside this file, then:",
        f"# podman build --tag {image} . && podman push {image}",
        f"FROM {BASE}",
        f'LABEL quantgate.release="{release.id}" quantgate.digest="{release.digest}"',
        f"COPY --chmod=0755 {MODEL}/ /models/",
        f"COPY {SUMS} /{SUMS}",
        "WORKDIR /models",
        f"RUN sha256sum -c /{SUMS}",
    )
    return "\n".join(lines) + "\n"


def checksums(uri: str, digest: str) -> str | None:
    """The files' sha256 values as `sha256sum -c` reads them; None unless the store has them for exactly these weights.

    Reads the store's marker and no weights.
    """
    text = open_store(uri).get_text(MARKER)
    if text is None:
        return None
    try:
        files = Marker.model_validate_json(text).files
    except ValidationError:
        return None
    hashes = {name: file.sha256 for name, file in files.items() if name not in UNREAD}
    if combined(hashes) != digest:
        return None
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
