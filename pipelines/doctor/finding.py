"""What a check of the cluster found, and what a check gets to know about the run."""

from dataclasses import dataclass

from quantgate.components.kubernetes.questions import ClusterQuestions
from quantgate.components.servers.cluster_settings import KSERVE, ServingSettings
from quantgate.pipelines.doctor.pipeline_needs import PipelineNeeds

GOOD, FAULT, NOTE = "✔", "✘", "!"
"""A run can rely on it; it would stop a run; it could not be checked, or costs a run something and does not stop it."""

PATIENCE_S = 5.0
"""How long a call that a run would repeat for minutes is repeated here."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer."""

    mark: str
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        text = " ".join(self.text.split())
        return f"{self.mark} {self.subject:12} {text}{f' → {self.remedy}' if self.remedy else ''}"


@dataclass(frozen=True)
class Examined:
    """The cluster, and the run that shall fit on it."""

    questions: ClusterQuestions
    namespace: str
    """Of the run."""
    account: str
    """The service account of the run's pods."""
    needs: PipelineNeeds
    settings: ServingSettings
    """How this cluster serves a variant."""
    in_pod: bool
    """Whether this process runs in a pod of the cluster."""

    @property
    def uses_kserve(self) -> bool:
        """Whether KServe serves the variants."""
        return self.settings.kind == KSERVE

    @property
    def user(self) -> str:
        """The account's name for the API server."""
        return f"system:serviceaccount:{self.namespace}:{self.account}"
