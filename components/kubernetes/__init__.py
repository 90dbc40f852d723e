"""The cluster's API: client, owner, labels, leases and the reaper."""
