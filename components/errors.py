"""The one error of quantgate that a user can fix.

Whoever raises it says what happened and what to do; the command line prints the message alone, without a
traceback, and exits with 2. Any other exception is a fault of ours and keeps its traceback.
"""


class PrerequisiteError(Exception):
    """Something outside quantgate is missing or wrong; the message says what happened and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback (IPython asks for it by this name)."""
        return [f"quantgate: {self}"]


class ServerGoneError(PrerequisiteError):
    """A server on a cluster was removed while a step used it, by the reaper, by `undeploy` or by somebody."""
