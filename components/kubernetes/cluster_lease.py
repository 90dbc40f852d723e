"""The lease of a server on a cluster: a Lease object that owns it, and that each step which uses the server renews.

What nobody renews is removed by the reaper, and the server with it: a run whose pods were all killed cannot clean up.
The times are those of the machines' clocks; a lease is long (half an hour) beside what clocks differ by.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from components.errors import PrerequisiteError, ServerGoneError
from components.kubernetes.cluster_client import JSON, LEASE, ClusterClient

RENEWALS = 3
"""How often a lease is renewed within its length."""


def timestamp(moment: datetime) -> str:
    """As Kubernetes writes microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def ends(lease: JSON) -> datetime:
    """When the lease ends; a lease that does not tell is over."""
    spec = lease.get("spec", {})
    if not spec.get("renewTime"):
        return datetime.min.replace(tzinfo=UTC)
    return datetime.fromisoformat(spec["renewTime"]) + timedelta(seconds=spec.get("leaseDurationSeconds", 0))


def renew(cluster: ClusterClient, name: str, uid: str = "") -> JSON:
    """Begin the lease's time anew, and return it; raises ServerGoneError when it (or the one of that uid) is gone."""
    same = {"metadata": {"uid": uid}} if uid else {}  # it cannot be changed, so the patch of another one is refused
    found = cluster.patch(LEASE, name, {**same, "spec": {"renewTime": timestamp(datetime.now(UTC))}})
    if found is None or "deletionTimestamp" in found["metadata"]:
        raise ServerGoneError(
            f"The server {name} in the namespace {cluster.namespace} was removed while it was needed: its lease was "
            "not renewed in time, or somebody deleted it. Run the variant again; QUANTGATE_SERVING_LEASE_S is the "
            "lease's length."
        )
    return found


class Keeper:
    """Renews one lease in a thread until it is told to stop, or the lease is gone."""

    def __init__(self, cluster: ClusterClient, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.lost: ServerGoneError | None = None
        lease = renew(cluster, name)  # here and now: what is gone, or may not be renewed, is told before any work
        self.uid: str = lease["metadata"]["uid"]
        self.every_s: float = lease["spec"]["leaseDurationSeconds"] / RENEWALS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_stopped, name=f"lease of {name}", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more but once, now: the next step has the lease's whole length to find its node."""
        self._stopped.set()
        self._thread.join()

    def _renew_until_stopped(self) -> None:
        last = False
        while not last:
            last = self._stopped.wait(self.every_s)
            try:
                renew(self.cluster, self.name, self.uid)
            except ServerGoneError as error:
                self.lost = error
                return
            except PrerequisiteError as error:  # the lease has time left, and the API may answer again
                print(f"quantgate: the lease of {self.name} was not renewed: {error}", flush=True)


@contextmanager
def keeping(cluster: ClusterClient, name: str) -> Iterator[None]:
    """Renew the lease for the time of the block; raises ServerGoneError, at its end, when it was lost meanwhile."""
    keeper = Keeper(cluster, name)
    keeper.start()
    try:
        yield
    finally:
        keeper.stop()
        if keeper.lost:  # of two errors the cause: that a server which is gone does not answer is no news
            raise keeper.lost
