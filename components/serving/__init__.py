"""Start, wait for and stop the servers that answer for a variant."""
