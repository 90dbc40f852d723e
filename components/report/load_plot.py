"""The plot of output tokens/s against the number of requests at a time."""

import itertools

from markupsafe import Markup

from quantgate.components.report.plots import labels, marker
from quantgate.components.report.svg import LEFT, RIGHT, Axis, grid_line, line, svg, text, tick_below
from quantgate.components.run.verdicts import Decision

HEIGHT = 290
BOTTOM, TOP = HEIGHT - 50, 14
INSET = 30
"""From the plot's edges to its first and its last number of requests."""


def load_plot(decision: Decision) -> Markup:
    """A line for each load-tested variant; empty without load tests. The numbers of requests are evenly spaced."""
    tests = {test.variant: test for test in decision.load_tests if test.levels}
    if not tests:
        return Markup("")
    levels = [level for test in tests.values() for level in test.levels]
    numbers = sorted({level.concurrency for level in levels})
    step = (RIGHT - LEFT - 2 * INSET) / max(len(numbers) - 1, 1)
    across = {number: LEFT + INSET + place * step for place, number in enumerate(numbers)}
    up = Axis.over([0, *(level.output_tokens_per_s for level in levels)], BOTTOM, TOP)
    drawn = [
        *(grid_line(up.at(value), label) for value, label in up.ticks()),
        *(tick_below(x, BOTTOM, f"{number:,}") for number, x in across.items()),
        text((LEFT + RIGHT) / 2, HEIGHT - 10, "requests at a time", "middle"),
        Markup('<text transform="translate(13,{:.0f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (HEIGHT - 36) / 2, "output tokens/s"
        ),
    ]
    ends = {}
    for index, verdict in enumerate(decision.verdicts):
        if test := tests.get(verdict.variant):
            spots = [(across[level.concurrency], up.at(level.output_tokens_per_s)) for level in test.levels]
            drawn += [line(*start, *end, "whisker") for start, end in itertools.pairwise(spots)]
            drawn += [marker(index, *spot) for spot in spots]
            ends[verdict.variant] = spots[-1]
    return svg(HEIGHT, "Output tokens/s against requests at a time, one line per variant", [*drawn, *labels(ends)])
