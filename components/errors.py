"""The errors of quantgate that a user can fix.

The message says what happened and what to do. The command line prints only the message, without a traceback, and exits
with 2. Any other exception is a bug in quantgate and keeps its traceback.
"""


class PrerequisiteError(Exception):
    """Something outside quantgate is missing or wrong; the message says what happened and what to do."""

    def _render_traceback_(self) -> list[str]:
        """The lines that a notebook shows in place of a traceback; IPython calls this method by name."""
        return [f"quantgate: {self}"]


class ServerGoneError(PrerequisiteError):
    """A server on a cluster was removed while a step used it: by the reaper, by `undeploy` or by a person."""
