"""lm-eval's random sources, seeded as in its own runs."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np

SEED, NUMPY_SEED = 0, 1234


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Seed the global random sources as lm-eval's own runs do, and restore them afterwards."""
    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(SEED)
    np.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
