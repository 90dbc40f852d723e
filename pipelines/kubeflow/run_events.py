"""The events of a run on Kubeflow: what its steps print into their pods' logs, and what Kubeflow says of its tasks.

A step's own events have the counts, the reason of a failure and the verdicts. Kubeflow's states fill the gaps: a task
without a pod yet, a pod that was killed, a log that Kubeflow does not have.
"""

import time
from dataclasses import dataclass, replace

from kfp_server_api import models as api

from quantgate.components.run.progress import DONE, FAILED, RUNNING, SKIPPED, Event, events_in
from quantgate.pipelines.kubeflow.connection import Kubeflow
from quantgate.pipelines.kubeflow.workflow import RunTask, get_log, get_workflow

ENDED = (DONE, FAILED, SKIPPED)


@dataclass(frozen=True)
class StepFailure:
    """A failed step."""

    name: str
    reason: str
    """The first line of the reason."""
    log: str
    """The command that prints its log; empty without a pod."""


class RunEvents:
    """Reads the events of a run, each once, and keeps what the end of the run needs."""

    def __init__(self, kubeflow: Kubeflow, run_id: str, variants: list[str]) -> None:
        self.kubeflow, self.run_id, self.variants = kubeflow, run_id, variants
        self.terminated = False
        self.failure: StepFailure | None = None
        """Why the run failed: the last failure of a step outside of the loop, or of a pod in it."""
        self.results = ""
        """Where the run's results are; empty until a step has ended."""
        self.to_do: list[str] = []
        self.verdicts: tuple[tuple[str, str, str], ...] = ()
        self.ended_steps: dict[str, list[str]] = {}
        """By variant, the steps that are done; those of the run under the empty name."""
        self._states: dict[tuple[str, int | None], str] = {}
        self._read: dict[str, int] = {}
        self._complete: set[str] = set()

    def new(self, run: api.V2beta1Run) -> list[Event]:
        """The events since the last call, in the pipeline's order; raises NotReachedError."""
        self.terminated = self.terminated or run.state in ("CANCELING", "CANCELED")
        workflow = get_workflow(self.kubeflow, self.run_id)
        if workflow is None:
            return []
        self.terminated = self.terminated or workflow.terminated
        logs = {
            task.pod: self._log(task, workflow.namespace) for task in workflow.tasks
        }  # all, before any counts as read
        new = []
        for task in workflow.tasks:
            log = log_command(workflow.namespace, task.pod) if task.pod else ""
            for event in self._of_task(task, logs[task.pod]):
                reason = event.note.partition("\n")[0]
                self._keep(event)
                if event.state == FAILED and task.state == FAILED:  # a variant that failed does not fail its step
                    self.failure = StepFailure(event.name, reason, log)
                where = f" Its log: {log}" if event.state == FAILED and log else ""
                new.append(replace(event, note=f"{reason}{where}"))
        return new

    def _of_task(self, task: RunTask, log: str) -> list[Event]:
        """The task's new events: those in its log, and Kubeflow's state where the log does not say it."""
        key = task.step, task.iteration
        logged = self._logged(task, log)
        variant = "" if task.iteration is None else self._variant(task.iteration, logged)
        events = []
        if key not in self._states:
            events.append(Event(task.began, task.step, variant, RUNNING))
        again = self._states.get(key) in ENDED  # another attempt
        events += [event for event in logged if event.state != RUNNING or event.total or again]
        own = [event for event in events if event.step == task.step]  # a task may report a step within it
        last = own[-1].state if own else self._states.get(key, RUNNING)
        if task.state in ENDED and (last not in ENDED or (task.state == FAILED and last != FAILED)):
            reason = task.message or "Kubeflow gives no reason." if task.state == FAILED else ""
            events.append(Event(task.ended or time.time(), task.step, variant, task.state, note=reason))
        if own := [event for event in events if event.step == task.step]:
            self._states[key] = own[-1].state
        return events

    def _log(self, task: RunTask, namespace: str) -> str:
        """The log of the task's pod, which is read until the task has ended and its log is there."""
        if not task.pod or task.pod in self._complete:
            return ""
        return get_log(self.kubeflow, self.run_id, task.pod, namespace, has_ended=task.state in ENDED)

    def _logged(self, task: RunTask, log: str) -> list[Event]:
        """The events in the log that are new."""
        events = events_in(log)
        new = events[self._read.get(task.pod, 0) :]
        self._read[task.pod] = max(len(events), self._read.get(task.pod, 0))
        if task.state in ENDED and log:  # Argo may keep the log of an ended pod a moment later
            self._complete.add(task.pod)
        return new

    def _variant(self, iteration: int, logged: list[Event]) -> str:
        """The variant of an iteration, which its events know best."""
        while len(self.variants) <= iteration:
            self.variants.append(f"variant {len(self.variants) + 1}")
        if logged and logged[0].variant:
            self.variants[iteration] = logged[0].variant
        return self.variants[iteration]

    def _keep(self, event: Event) -> None:
        """Keep what the end of the run needs of the event."""
        if event.state == DONE:
            self.ended_steps.setdefault(event.variant, []).append(event.step)
        if event.to_do:
            self.to_do.append(event.to_do)
        self.verdicts = event.verdicts or self.verdicts
        self.results = event.results or self.results


def log_command(namespace: str, pod: str) -> str:
    """The command that prints the log of a step's pod."""
    return f"kubectl --namespace {namespace} logs {pod} --container main"
