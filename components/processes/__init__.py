"""Child processes: leases, the guard that ends a command when its owner is gone."""
