"""`quantgate doctor --cluster`: what would stop a run on this cluster, and the remedy. It changes nothing."""
