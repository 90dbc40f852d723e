"""How numbers are printed; what was not measured is a dash, never a zero."""

import math

from components.evidence.change import about, percent

MISSING = "—"
MINUS = "−"


def score_text(score: float | None) -> str:
    """`0.412`."""
    return MISSING if score is None else f"{score:.3f}".replace("-", MINUS)


def stderr_text(stderr: float | None) -> str:
    """`± 0.016`, or nothing where it is not known."""
    return "" if stderr is None else f"± {stderr:.3f}"


def percent_text(share: float | None, bounds: tuple[float, ...] = (), unit: str = "%") -> str:
    """`2.6 %` for 0.026; a gain, which is a negative drop, is `−0.4 %`. Or `2.6 points`.

    As in the gate's sentences, more digits where one would show the share on, or across, 0 or a bound that it is not.
    """
    if share is None:
        return MISSING
    magnitude = percent(abs(share), *bounds, unit=unit)
    return f"{MINUS if share < 0 and not magnitude.startswith('0.0 ') else ''}{magnitude}"


def unit_of(relative: bool) -> str:
    """What a drop is in."""
    return "%" if relative else "points"


def size_text(size_bytes: int | None) -> str:
    """`163 MB`, a million bytes each; two digits under 10 MB."""
    if size_bytes is None:
        return MISSING
    megabytes = size_bytes / 1e6
    return f"{megabytes:,.0f} MB" if megabytes >= 9.5 else f"{megabytes:.2g} MB"


def ratio_text(ratio: float | None) -> str:
    """`0.61×`, or nothing where it is not known."""
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


def short_digest(digest: str) -> str:
    """The first twelve digits, enough to recognise one."""
    return digest.removeprefix("sha256:")[:12] or MISSING


def p_text(p: float) -> str:
    """`0.034`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def amount_text(value: float | None, kind: str, bounds: tuple[float, ...] = (), unit: str = "%") -> str:
    """A limit or what is held against it: a drop as a percentage, a divergence in nats, a perplexity as a ratio."""
    if value is None or not math.isfinite(value):
        return MISSING
    if kind == "drop":
        return percent_text(value, bounds, unit)
    return f"{value:.3g} nats".replace("-", MINUS) if kind == "divergence" else f"{value:.4g}×"


def count_text(count: int | None) -> str:
    """`1,900`, or a dash."""
    return MISSING if count is None else f"{count:,}"


def about_text(count: int | None) -> str:
    """`about 1,400` for 1,422, or a dash."""
    return MISSING if count is None else f"about {about(count)}"
