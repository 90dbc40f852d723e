"""What the network policies of a namespace let through: the part of Kubernetes' rules that the manifests use.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

Object = dict[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod of a namespace, or an address outside the cluster."""

    labels: tuple[tuple[str, str], ...] = ()
    namespace: str = "quantgate"
    address: str = ""
    """Set for a peer that is not a pod."""

    @property
    def namespace_labels(self) -> dict[str, str]:
        """What every namespace has; of OpenShift's router also its policy group."""
        router = {"policy-group.network.openshift.io/ingress": ""} if self.namespace == "openshift-ingress" else {}
        return {"kubernetes.io/metadata.name": self.namespace, **router}


def pod(labels: Labels, namespace: str = "quantgate") -> Peer:
    """A pod with these labels."""
    return Peer(tuple(sorted(labels.items())), namespace)


def connects(policies: Sequence[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let a pod reach another pod, or an address, on that port."""
    out = lets(policies, "Egress", source, target, port, protocol)
    return out and lets(policies, "Ingress", target, source, port, protocol)


def lets(policies: Sequence[Object], direction: str, here: Peer, there: Peer, port: int, protocol: str) -> bool:
    """Whether one end's own policies allow it; where none is about it, all is allowed."""
    about = [
        policy["spec"]
        for policy in policies
        if not here.address
        and policy["metadata"]["namespace"] == here.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], dict(here.labels))
    ]
    key, ends = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    rules = [rule for spec in about for rule in spec.get(key, ())]
    return not about or any(
        any(is_peer(end, here.namespace, there) for end in rule[ends])
        and ("ports" not in rule or {"protocol": protocol, "port": port} in rule["ports"])
        for rule in rules
    )


def is_peer(end: Object, namespace: str, there: Peer) -> bool:
    """Whether a rule's end means that peer."""
    if "ipBlock" in end:
        # A pod is not meant by its address: what a plugin makes of that differs.
        block = end["ipBlock"]
        return bool(there.address) and (
            ip_address(there.address) in ip_network(block["cidr"])
            and not any(ip_address(there.address) in ip_network(network) for network in block.get("except", ()))
        )
    if there.address:
        return False
    of_namespace = (
        selects(end["namespaceSelector"], there.namespace_labels)
        if "namespaceSelector" in end
        else there.namespace == namespace
    )
    return of_namespace and selects(end.get("podSelector", {}), dict(there.labels))


def selects(selector: Object, labels: Labels) -> bool:
    """Whether a label selector means an object with these labels; an empty one means all."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        holds(expression, labels) for expression in selector.get("matchExpressions", ())
    )


def holds(expression: Object, labels: Labels) -> bool:
    """Whether the labels match one expression of a selector."""
    key, values = expression["key"], expression.get("values", ())
    return {
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
        "In": labels.get(key) in values and key in labels,
        "NotIn": labels.get(key) not in values or key not in labels,
    }[str(expression["operator"])]
