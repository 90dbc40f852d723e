"""What a run is: its plan, its artifacts, where its results lie, its progress, its per-item records."""
