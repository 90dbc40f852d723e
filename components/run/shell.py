"""What the kfp shells of the steps share: their image, and that nothing of theirs is cached. It imports no kfp.

kfp copies a shell's source into the pipeline. So a shell imports inside its body, its signature holds only what kfp
knows, and the image, which pipelines/cluster.py sets, brings the packages.
"""

import functools
from collections.abc import Callable
from typing import Any

IMAGE = "quantgate:0.1.0"


def uncached(component: Callable[..., Any]) -> Callable[..., Any]:
    """The component without kfp's cache, which sees neither the packages' code nor whether a server runs."""

    @functools.wraps(component)
    def task(**inputs: object) -> Any:
        return component(**inputs).set_caching_options(False)

    return task
