"""How attempts, and the runs of an attempt, share the error probability of a policy.

A person who quantizes again, or asks more questions, until a variant passes looks at the error probability again each
time. So attempt k may use 6 / (pi^2 k^2) of it: these shares add up to 1 however many attempts follow. It is the union
bound over attempts, alpha spending (D. Foster and R. Stine, Alpha-investing, J. Royal Statistical Society B 70 (2008)
429-444; J. Tian and A. Ramdas, Online control of the familywise error rate, Statistical Methods in Medical Research 30
(2021) 976-993).

The runs of one attempt judge the same weights on more questions. They are looks at one experiment, planned as those
within a run: the first run may use three quarters of the attempt's share, and run j + 1 has 6 / (pi^2 j^2) of the last
quarter. The first run gets so much because most attempts have no other.

A rejection keeps its confidence for each variant by itself. So only the runs of its own attempt share its error.
"""

import math

from quantgate.components.evidence.change import confidence_text
from quantgate.components.run.attempts import Attempt

CONTINUED = 0.25
"""The share of an attempt's error probability that all its runs after the first use together."""


def attempt_share(attempt: Attempt | None) -> float:
    """The share of the policy's error probability for this attempt; 1 if attempts are not counted."""
    return 1.0 if attempt is None else _harmonic(attempt.number)


def run_share(attempt: Attempt | None) -> float:
    """The share of the attempt's error probability for this run of it; 1 if attempts are not counted."""
    if attempt is None:
        return 1.0
    return CONTINUED * _harmonic(attempt.run - 1) if attempt.run > 1 else 1 - CONTINUED


def error_of(confidence: float, attempt: Attempt | None) -> float:
    """The error probability that the looks and the variants of this run share, of a policy with this confidence."""
    return (1 - confidence) * attempt_share(attempt) * run_share(attempt)


def describe_attempt(confidence: float, attempt: Attempt) -> str:
    """`Attempt 3, decided at 99.75 % in place of 95 %`, for readers."""
    shared = confidence_text(error_of(confidence, attempt))
    return f"{attempt.describe().capitalize()}, decided at {shared} in place of {confidence_text(1 - confidence)}"


def _harmonic(number: int) -> float:
    """6 / (pi^2 number^2): over all numbers from 1 these add up to 1."""
    return 6 / (math.pi * number) ** 2
