"""Weights whose addresses and digests are invented."""

import pytest


@pytest.fixture
def weights_of_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promote weights that no store has: their bytes are not read."""
    monkeypatch.setattr("quantgate.components.promote.promotion.check_stored", lambda _uri, _digest, _cache: None)
