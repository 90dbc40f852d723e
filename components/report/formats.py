"""Numbers and results as text. A value that was not measured is a dash, never a zero."""

import math

from components.evidence.change import about, percent

MISSING = "—"
MINUS = "−"
OUTCOMES = {
    "passed": "✓ within limit",
    "exceeded": "✗ over limit",
    "open": "? inconclusive",
    "undecidable": "? below the noise floor",
    "uninformative": "? baseline may be guessing",
}
"""The result of a limit, as the report and the terminal print it."""

KINDS = {
    "drop": "",
    "cluster": "worst cluster",
    "length": "longer answers",
    "cut": "cut answers",
    "loss": "lost cases",
    "speedup": "output tokens/s, at least",
    "first_token": "time to first token",
}
"""What a limit on a task limits, after the task's name; any other kind has its own name."""


def subject_text(kind: str) -> str:
    """What the limit limits, beside the task's or average's score: `divergence`, `longer answers`; "" for a drop."""
    return KINDS.get(kind, kind)


def score_text(score: float | None) -> str:
    """`0.412`."""
    return MISSING if score is None else f"{score:.3f}".replace("-", MINUS)


def stderr_text(stderr: float | None) -> str:
    """`± 0.016`, or an empty string if the error is unknown."""
    return "" if stderr is None else f"± {stderr:.3f}"


def percent_text(share: float | None, bounds: tuple[float, ...] = (), unit: str = "%") -> str:
    """`2.6 %` for 0.026, or `2.6 points`; a gain is a negative drop: `−0.4 %`.

    Rounding never moves a share onto 0 or a bound, or across it: the text then has more digits, as in the gate's
    sentences.
    """
    if share is None:
        return MISSING
    magnitude = percent(abs(share), *bounds, unit=unit)
    return f"{MINUS if share < 0 and not magnitude.startswith('0.0 ') else ''}{magnitude}"


def unit_of(relative: bool) -> str:
    """The unit of a drop: `%` if drops are relative, else `points`."""
    return "%" if relative else "points"


def size_text(size_bytes: int | None) -> str:
    """`163 MB`, where 1 MB is a million bytes; two significant digits under 10 MB."""
    if size_bytes is None:
        return MISSING
    megabytes = size_bytes / 1e6
    return f"{megabytes:,.0f} MB" if megabytes >= 9.5 else f"{megabytes:.2g} MB"


def ratio_text(ratio: float | None) -> str:
    """`0.61×`, or an empty string if the ratio is unknown."""
    return "" if ratio is None else f"{ratio:.2f}×"


def duration_text(duration_s: float) -> str:
    """`37 s`, `3 min 20 s`, `2 h 5 min`."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    seconds = round(duration_s)
    if seconds < 120:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def rate_text(per_s: float) -> str:
    """`1,235` for 1,234.6 tokens/s; three significant digits under 100."""
    return f"{per_s:,.0f}" if per_s >= 99.95 else f"{per_s:.3g}"


def milliseconds_text(median_ms: float, p95_ms: float) -> str:
    """The median and the 95th percentile: `28 / 252 ms`; three significant digits under 10 ms."""
    median, p95 = (f"{value:,.0f}" if value >= 9.995 else f"{value:.3g}" for value in (median_ms, p95_ms))
    return f"{median} / {p95} ms"


def short_digest(digest: str) -> str:
    """The first twelve digits of a digest, enough to recognise it."""
    return digest.removeprefix("sha256:")[:12] or MISSING


def p_text(p: float) -> str:
    """`0.034`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def amount_text(value: float | None, kind: str, bounds: tuple[float, ...] = (), unit: str = "%") -> str:
    """A limit or the value compared with it: a drop in `unit`, nats, a ratio of perplexities, or a share."""
    if value is None or not math.isfinite(value):
        return MISSING
    if kind in ("drop", "cluster"):
        return percent_text(value, bounds, unit)
    if kind in ("length", "cut", "loss"):
        return percent_text(value, bounds)
    return f"{value:.3g} nats".replace("-", MINUS) if kind == "divergence" else f"{value:.4g}×"


def count_text(count: int | None) -> str:
    """`1,900`, or a dash."""
    return MISSING if count is None else f"{count:,}"


def about_text(count: int | None) -> str:
    """`about 1,400` for 1,422, or a dash."""
    return MISSING if count is None else f"about {about(count)}"
