"""How far llm-compressor is, by its log: the decoder layer that it calibrates, and what it does beside that."""

import re
from dataclasses import dataclass

LAYER = re.compile(rb"\((?P<layer>\d+)/(?P<layers>\d+)\): (?P<what>Calibrating|Propagating)")
QUANTIZING = re.compile(rb"Quantizing \d+ module\(s\): \['(?P<module>[\w.]+)'")
BAR = re.compile(
    rb"(?P<name>Loading weights|Linearizing experts|Preparing cache|Smoothing|Repacking experts|Compressing model"
    rb"|Writing model shards): +\d+%\|[^|\r\n]*\| (?P<done>\d+)/(?P<total>\d+)"
)
"""A bar of tqdm's."""
PHASES = {
    b"Calibrating": "passing the texts through it",
    b"Propagating": "passing the texts on to the next",
    b"Loading weights": "reading tensors",
    b"Linearizing experts": "taking experts apart, decoder layer",
    b"Preparing cache": "preparing texts",
    b"Smoothing": "scaling",
    b"Repacking experts": "joining experts, decoder layer",
    b"Compressing model": "packing weights",
    b"Writing model shards": "writing files",
}


@dataclass(frozen=True)
class LogProgress:
    """The last that a log says."""

    layer: int = 0
    layers: int = 0
    """0 before the first; the model's decoder layers, and its output as one more."""
    doing: str = ""
    """E.g. `quantizing model.layers.3.mlp.down_proj`, `preparing texts 12 of 512`."""

    @property
    def note(self) -> str:
        """`layers; quantizing model.layers.3.mlp.down_proj`, for a step's progress."""
        return "; ".join(filter(None, ["layers" if self.layers else "", self.doing]))


def progress_in(log: bytes) -> LogProgress:
    """What the log says last."""
    layer = _last(LAYER, log)
    known = [match for match in (layer, _last(QUANTIZING, log), _last(BAR, log)) if match]
    latest = max(known, key=lambda match: match.start(), default=None)
    if latest is None:
        return LogProgress()
    parts = latest.groupdict()
    if "module" in parts:
        doing = f"quantizing {parts['module'].decode()}"
    elif "name" in parts:
        doing = f"{PHASES[parts['name']]} {int(parts['done'])} of {int(parts['total'])}"
    else:
        doing = PHASES[parts["what"]]
    place = (int(layer["layer"]), int(layer["layers"])) if layer else (0, 0)
    return LogProgress(*place, doing)


def _last(pattern: re.Pattern[bytes], log: bytes) -> re.Match[bytes] | None:
    found = None
    for found in pattern.finditer(log):  # noqa: B007 - the last one stays
        pass
    return found
