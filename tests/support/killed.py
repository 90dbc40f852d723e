"""A process that is killed, by SIGKILL, at one of its requests to the stand-in of a cluster."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil

from quantgate.components.servers.start_key import SERVERS_SECRET
from tests.support.kubernetes_server import LOST, LOST_AFTER
from tests.support.kubernetes_state import Cluster, Request

ENVIRONMENT = (
    "KUBECONFIG",
    "KUBERNETES_SERVICE_HOST",
    "HOSTNAME",
    "QUANTGATE_SANDBOX_IMAGE",
    "QUANTGATE_SERVING",
    SERVERS_SECRET,
)
"""The environment variables that the process gets from this one; its own server was perhaps started without them."""


def killed_at(cluster: Cluster, request: int, after: bool, target: Callable[..., Any], *arguments: object) -> bool:
    """Call the target in a process that is killed at its n-th request, from 1; returns whether it sent that many.

    The server executes that request if `after` is set; nobody receives the answer.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([target.__module__, "kubernetes"])
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    process = processes.Process(target=call, args=(environment, target, arguments))
    last = len(cluster.requests) + request

    def kill(number: int, _: Request) -> int | None:
        if number != last:
            return None
        assert process.pid is not None
        killed = psutil.Process(process.pid)
        killed.kill()
        killed.wait(20)  # not process.join(): only one thread can read the exit status, and another one waits for it
        return LOST_AFTER if after else LOST

    cluster.faults = kill
    process.start()
    process.join(60)
    cluster.settle()
    cluster.faults = lambda *_: None
    status = process.exitcode
    process.close()
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def call(environment: dict[str, str], target: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """The work of the process."""
    os.environ.update(environment)
    target(*arguments)
