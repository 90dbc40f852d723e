"""The `track` step: a pipeline run in MLflow, its variants side by side, each with its verdict.

MLflow takes seconds to import, so that only `track` itself does it.
"""

from components.track.facts import RunFacts, RunFiles, facts_here
from components.track.runs import TrackedRun, track
from components.track.uris import local_tracking_uri, open_command, shown_uri

__all__ = [
    "RunFacts",
    "RunFiles",
    "TrackedRun",
    "facts_here",
    "local_tracking_uri",
    "open_command",
    "shown_uri",
    "track",
]
