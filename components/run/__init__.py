"""A run: its plan, its artifacts, the location of its results, its progress, its per-item records."""
