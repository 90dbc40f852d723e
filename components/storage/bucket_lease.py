"""A lease in a bucket: only one process at a time holds it, on whatever machine.

Each process that wants it writes a claim, and looks at all claims when the others must have seen its own. The oldest
claim has the lease, by the server's times. So the lease needs nothing but S3's consistent lists: Kubeflow's own object
store has no conditional writes. The claim of a process that died ends after LASTS_S.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError

if TYPE_CHECKING:
    from quantgate.components.storage.s3 import S3Store

SETTLES_S = 3.0
"""Longer than a claim takes to be written, and than the second to which S3's times are exact."""
LASTS_S = 300.0
PAUSE_S = 1.0


@contextmanager
def held(location: str, name: str) -> Iterator[None]:
    """Hold the lease `name` of an s3:// location during the block, which must end within LASTS_S.

    Waits while another process holds it.
    """
    if not location.startswith("s3://"):
        raise PrerequisiteError(f"{location} is not in S3, where other machines read it. Give s3://BUCKET/PREFIX.")
    from quantgate.components.storage.s3 import S3Store

    store, claim = S3Store(location), uuid.uuid4().hex
    while True:
        store.put_text("", f"{name}/{claim}")  # again in each turn, so that its age counts from here
        try:
            time.sleep(SETTLES_S)
            if is_oldest(store, name, claim):
                yield
                return
        finally:
            store.remove(f"{name}/{claim}")
        time.sleep(PAUSE_S)


def is_oldest(store: "S3Store", name: str, claim: str) -> bool:
    """Whether the claim, just written, is the oldest of those whose processes may live; of one second the first name.

    The ages are those at the time of this claim, so that the clock of this machine does not count.
    """
    claims = {other: stored.modified for other, stored in store.objects(name).items()}
    if claim not in claims:
        return False
    living = [(at, other) for other, at in claims.items() if (claims[claim] - at).total_seconds() < LASTS_S]
    return min(living)[1] == claim
