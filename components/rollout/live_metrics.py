"""What to watch while two releases serve: vLLM's own metrics, as queries and as alerts for Prometheus.

Each metric is compared between the two releases over the same half hour, so that a busy hour is no alarm. A release is
selected by `model_name`, the first name that its vLLM serves, or by its pods' names, where KServe sets that name.
"""

from dataclasses import dataclass
from string import Template

from quantgate.components.kubernetes.cluster_client import JSON
from quantgate.components.rollout.kserve_services import Release, Traffic
from quantgate.components.rollout.rollout_plan import KNATIVE, requests_without_error

WINDOW = "30m"
HOLDS = "10m"
"""How long a difference must last before it is an alert."""


@dataclass(frozen=True)
class LiveMetric:
    """One metric of a release, and the difference from the other release that stops a rollout."""

    name: str
    what: str
    query: str
    """PromQL, with $of for the labels that select a release, and $window."""
    times: float
    """The variant's value may be so many times the other's,"""
    plus: float
    """and so much more."""

    def of(self, labels: str) -> str:
        """The query for the release that these labels select."""
        return Template(self.query).substitute(of=labels, window=WINDOW)

    def alert(self, variant: str, stable: str) -> str:
        """The condition under which the variant is worse."""
        return f"{self.of(variant)} > {self.times:g} * {self.of(stable)} + {self.plus:g}"


def _rate(series: str, more: str = "") -> str:
    return f"rate({series}{{$of{more}}}[$window])"


def _share(reason: str) -> str:
    ended = _rate("vllm:request_success_total", f',finished_reason="{reason}"')
    return f"(sum({ended}) / sum({_rate('vllm:request_success_total')}))"


def _percentile(metric: str) -> str:
    return f"histogram_quantile(0.95, sum by (le) ({_rate(f'{metric}_bucket')}))"


def _mean(metric: str) -> str:
    return f"(sum({_rate(f'{metric}_sum')}) / sum({_rate(f'{metric}_count')}))"


METRICS = (
    LiveMetric("errors", "share of requests that end with an error", _share("error"), 1, 0.01),
    LiveMetric("aborted", "share of answers that clients no longer wait for", _share("abort"), 1, 0.02),
    LiveMetric("cut", "share of answers that the token limit cuts", _share("length"), 1, 0.02),
    LiveMetric("tokens", "tokens per answer", _mean("vllm:request_generation_tokens"), 1.2, 0),
    LiveMetric("first_token", "95th percentile of seconds to the first token",
               _percentile("vllm:time_to_first_token_seconds"), 1.25, 0.05),
    LiveMetric("per_token", "95th percentile of seconds between tokens",
               _percentile("vllm:inter_token_latency_seconds"), 1.25, 0.005),
)  # fmt: skip
"""Where quantized models differ from their baseline on live traffic: they repeat themselves until they are cut, answer
longer, and a kernel that does not fit the GPU makes them slower."""


def selectors(traffic: Traffic) -> tuple[str, str]:
    """The labels of the variant's metrics, and of those of the release that serves.

    A pod's name begins with the service's and the release's, with both kinds of objects; Knative numbers its pods.
    """

    where = f',namespace="{traffic.namespace}"' if traffic.namespace else ""

    def labels(release: Release) -> str:
        if traffic.mode == KNATIVE:
            return f'model_name="{release.id}"{where}'
        return f'pod=~"{traffic.service}-{release.id}-.+"{where}'

    return labels(traffic.variant), labels(traffic.stable)


def requests_query(labels: str) -> str:
    """How many requests the release has answered in the window."""
    return f"sum(increase(vllm:request_success_total{{{labels}}}[{WINDOW}]))"


def prometheus_rule(traffic: Traffic, alpha: float) -> JSON:
    """The PrometheusRule of the Prometheus operator with an alert for each metric.

    An alert needs enough requests to the variant that a single failed one is no alarm.
    """
    variant, stable = selectors(traffic)
    enough = f"{requests_query(variant)} > {requests_without_error(alpha)}"
    rules = [
        {
            "alert": f"Rollout_{metric.name}",
            "expr": f"{metric.alert(variant, stable)} and {enough}",
            "for": HOLDS,
            "labels": {"severity": "warning", "service": traffic.service, "variant": traffic.variant.variant},
            "annotations": {
                "summary": f"{traffic.variant.variant}: the {metric.what} is higher than that of"
                f" {traffic.stable.variant}. Stop the rollout, or take it back."
            },
        }
        for metric in METRICS
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"{traffic.service}-rollout"},
        "spec": {"groups": [{"name": f"{traffic.service}-rollout", "rules": rules}]},
    }
