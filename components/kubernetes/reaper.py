"""Remove the servers whose leases are over. A CronJob runs this for runs that cannot clean up themselves.

    python -m quantgate.components.kubernetes.reaper --namespace NAMESPACE

It lists quantgate's leases and deletes those that are over; the cluster then deletes the objects that a lease owns. It
needs no other rights. A lease that is renewed between the listing and the deletion stays: its version has changed.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import LEASE, ClusterClient
from quantgate.components.kubernetes.cluster_lease import ends
from quantgate.components.kubernetes.labels import MANAGED_BY, MANAGER, RUN


def main(arguments: Sequence[str] | None = None) -> int:
    """Reap once; returns the exit status to leave with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", required=True, help="the namespace of the runs' servers")
    options = parser.parse_args(arguments)
    try:
        removed = reap(ClusterClient(options.namespace), datetime.now(UTC))
    except PrerequisiteError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Removed {len(removed)} servers in {options.namespace}{': ' if removed else ''}{', '.join(removed)}.")
    return 0


def reap(cluster: ClusterClient, now: datetime) -> list[str]:
    """Delete the leases that ended before `now`; returns their names."""
    leases, _ = cluster.listed(LEASE, labels=f"{MANAGED_BY}={MANAGER},{RUN}")
    removed = []
    for lease in leases:
        metadata = lease["metadata"]
        over = ends(lease) <= now and "deletionTimestamp" not in metadata
        if over and cluster.delete(LEASE, metadata["name"], metadata["uid"], metadata["resourceVersion"]):
            removed.append(metadata["name"])
    return removed


if __name__ == "__main__":
    sys.exit(main())
