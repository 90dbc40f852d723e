"""The lease of a server on a cluster: a Lease object that owns the server. Each step that uses the server renews it.

The reaper removes a lease that is not renewed, and with it the server: a run whose pods were all killed cannot clean
up. The times come from the machines' clocks; a lease (half an hour) is much longer than clocks differ.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from quantgate.components.errors import PrerequisiteError, ServerGoneError
from quantgate.components.kubernetes.cluster_client import JSON, LEASE, ClusterClient

RENEWALS = 3
"""How often a lease is renewed within its length."""


def timestamp(moment: datetime) -> str:
    """The moment in UTC, in Kubernetes' format with microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def ends(lease: JSON) -> datetime:
    """When the lease ends; a lease without a renewal time is over."""
    spec = lease.get("spec", {})
    if not spec.get("renewTime"):
        return datetime.min.replace(tzinfo=UTC)
    return datetime.fromisoformat(spec["renewTime"]) + timedelta(seconds=spec.get("leaseDurationSeconds", 0))


def renew(cluster: ClusterClient, name: str, uid: str = "") -> JSON:
    """Renew the lease and return it; raises ServerGoneError if the lease (or the one with that uid) is gone."""
    same = {"metadata": {"uid": uid}} if uid else {}  # a uid cannot change, so the API refuses to patch another lease
    lease = cluster.patch(LEASE, name, {**same, "spec": {"renewTime": timestamp(datetime.now(UTC))}})
    if lease is None or "deletionTimestamp" in lease["metadata"]:
        raise ServerGoneError(
            f"The server {name} in the namespace {cluster.namespace} was removed while it was in use: its lease was "
            "not renewed in time, or somebody deleted it. Run the variant again; QUANTGATE_SERVING_LEASE_S sets the "
            "lease's length."
        )
    return lease


class LeaseRenewer:
    """Renews one lease in a thread until it is stopped or the lease is gone."""

    def __init__(self, cluster: ClusterClient, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.lost: ServerGoneError | None = None
        lease = renew(cluster, name)  # now, so that a lease that is gone or forbidden raises before any work
        self.uid: str = lease["metadata"]["uid"]
        self.every_s: float = lease["spec"]["leaseDurationSeconds"] / RENEWALS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_stopped, name=f"lease of {name}", daemon=True)

    def start(self) -> None:
        """Start to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew once more and stop, so that the next step has the lease's whole length to get a node."""
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
            except PrerequisiteError as error:  # the lease has time left, and the API may recover
                print(f"quantgate: the lease of {self.name} was not renewed: {error}", flush=True)


@contextmanager
def renewing(cluster: ClusterClient, name: str) -> Iterator[None]:
    """Renew the lease during the block; raises ServerGoneError at the end of the block if the lease was lost."""
    renewer = LeaseRenewer(cluster, name)
    renewer.start()
    try:
        yield
    finally:
        renewer.stop()
        if renewer.lost:  # replaces the block's own error: the lost lease is the cause of it
            raise renewer.lost
