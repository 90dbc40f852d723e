"""The image and the cache setting of all kfp components. This module does not import kfp.

kfp copies a component's source into the pipeline. So a component imports inside its body, its signature has only types
that kfp knows, and the image, which pipelines/cluster.py sets, contains the packages.
"""

import functools
from collections.abc import Callable
from typing import Any

IMAGE = "quantgate:0.1.0"


def uncached(component: Callable[..., Any]) -> Callable[..., Any]:
    """The component without kfp's cache, which ignores changes of the packages' code and stopped servers."""

    @functools.wraps(component)
    def task(**inputs: object) -> Any:
        return component(**inputs).set_caching_options(False)

    return task
