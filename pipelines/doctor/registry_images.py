"""Whether the images of a run exist: on a node already, or by the answer of their registry to this machine.

Only the nodes' kubelets pull images, with credentials and a network of their own. So a registry that wants a login, or
does not answer here, is reported as not checked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding

DOCKER_HUB = "docker.io"
ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ImageName:
    """An image's name in its parts."""

    registry: str
    repository: str
    reference: str
    """The tag or the digest."""

    @property
    def url(self) -> str:
        """Where the registry has its manifest; only a registry on this machine is without TLS."""
        host = "registry-1.docker.io" if self.registry == DOCKER_HUB else self.registry
        scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
        return f"{scheme}://{host}/v2/{self.repository}/manifests/{self.reference}"

    @property
    def full(self) -> str:
        """The name as a node lists it."""
        mark = "@" if ":" in self.reference else ":"
        return f"{self.registry}/{self.repository}{mark}{self.reference}"


def parsed(image: str) -> ImageName:
    """The parts of a name; without a registry it is Docker's, as for the kubelet."""
    name, _, digest = image.partition("@")
    first, slash, rest = name.partition("/")
    has_registry = bool(slash) and (any(mark in first for mark in ".:") or first == "localhost")
    registry, path = (first, rest) if has_registry else (DOCKER_HUB, name)
    path, _, tag = path.partition(":")
    repository = path if registry != DOCKER_HUB or "/" in path else f"library/{path}"
    return ImageName(registry, repository, digest or tag or "latest")


def images(examined: Examined) -> Iterator[Finding]:
    """One finding for each image and for each missing pull Secret."""
    for secret in examined.needs.pull_secrets:
        if examined.questions.metadata("secrets", secret, examined.namespace).is_missing:
            text = f"there is no pull Secret {secret} in {examined.namespace}"
            yield Finding(FAULT, "image", text, "Create it: kubectl create secret docker-registry.")
    nodes = examined.questions.get("/api/v1/nodes").items
    names = [
        name for node in nodes for entry in node["status"].get("images") or () for name in entry.get("names") or ()
    ]
    for image in examined.needs.images:
        if {image, parsed(image).full} & set(names):
            yield Finding(GOOD, "image", f"{image}: on a node already")
        else:
            yield registry_finding(image, examined)


def registry_finding(image: str, examined: Examined) -> Finding:
    """What the registry answers here about the image."""
    try:
        answer = manifest(parsed(image))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Finding(NOTE, "image", f"{image}: not checked, its registry does not answer here ({error})")
    if answer.status_code == httpx.codes.OK:
        return Finding(GOOD, "image", f"{image}: its registry gives it to everybody")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return Finding(
            FAULT, "image", f"{image}: its registry does not have it", "Build and push it, or correct the name."
        )
    secrets = ", ".join(examined.needs.pull_secrets)
    text = f"{image}: not checked, its registry wants a login or does not have it ({answer.status_code})"
    advice = f"The nodes use the pull Secret {secrets}." if secrets else "If the nodes have none: --pull-secret."
    return Finding(NOTE, "image", text, advice)


def manifest(image: ImageName) -> httpx.Response:
    """The registry's answer to a request for the headers of the manifest, with an anonymous token if it wants one."""
    headers = {"Accept": ACCEPTED}
    with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
        answer = client.head(image.url, headers=headers)
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status_code != httpx.codes.UNAUTHORIZED or not challenge.startswith("Bearer "):
            return answer
        parts = dict(CHALLENGE.findall(challenge))
        token = client.get(parts.pop("realm", ""), params=parts)
        if token.status_code != httpx.codes.OK:
            return token
        body = token.json()
        bearer = body.get("token") or body.get("access_token") or ""
        return client.head(image.url, headers={**headers, "Authorization": f"Bearer {bearer}"})
