"""Child processes: leases, and the guard that ends a command when its owner ends."""
