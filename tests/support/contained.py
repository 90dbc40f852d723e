"""The sandbox, for the tests that need one: the machine's bubblewrap, or the one of the extra `sandbox`."""

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.sandbox.programs import check_sandbox


@pytest.fixture
def sandbox() -> None:
    """Skips where no program can be contained."""
    require_sandbox()


def require_sandbox() -> None:
    """Skip the test that asks where no program can be contained."""
    try:
        check_sandbox()
    except PrerequisiteError as missing:
        pytest.skip(str(missing))
