"""The addresses from which KServe loads weights, and the annotations that say whose weights they are."""

from collections.abc import Mapping

from quantgate.components.errors import PrerequisiteError

OCI = "oci://"
SCHEMES = ("s3://", "gs://", "pvc://", "https://", "hf://", OCI)


def check_reachable(weights: str) -> None:
    """Raise PrerequisiteError for weights that no cluster can load."""
    if not weights.startswith(SCHEMES):
        raise PrerequisiteError(
            f"KServe cannot load {weights or 'weights without an address'}: the weights are on one machine. Run the"
            f" pipeline with --store s3://BUCKET/PREFIX. It loads {', '.join(SCHEMES)}."
        )


def annotations(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts as annotations of a Kubernetes object, without the empty ones."""
    return {f"quantgate/{name}": value for name, value in facts.items() if value}
