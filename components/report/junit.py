"""The decision as a JUnit XML file, in which CI services show each limit as a test.

A test suite is a variant, with one test for its verdict and one for each limit of the policy that has evidence.

    ship, monitor; a limit that is kept          passes
    reject, A/B test, inconclusive; any other    fails: the variant may not replace the baseline, or nothing shows
    outcome of a limit                           that it may
    not comparable, failed; a run that failed    is an error: there was nothing to judge
    skipped: a search did not try it             has no test

No test is skipped: CI services count a skipped test as good enough.
"""

import re
from xml.etree import ElementTree

from quantgate.components.report.formats import OUTCOMES, about_text, amount_text, subject_text, unit_of
from quantgate.components.run.verdicts import Decision, LimitEvidence, Verdict

PASSING = ("ship", "monitor")
WITHOUT_JUDGEMENT = ("not_comparable", "failed")
UNTESTED = ("reference", "skipped")
ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot contain, not even escaped."""


def junit(decision: Decision) -> str:
    """The file's text; the baseline has a suite only if it failed, because nothing judges it.

    Of a search that found a variant only that one has a suite: rejected smaller ones are expected.
    """
    promoted = any(row.verdict in decision.limits.promotes for row in decision.verdicts)
    found = promoted and decision.plan is not None and decision.plan.search
    root = ElementTree.Element("testsuites", name="quantgate")
    for row in decision.verdicts:
        if row.verdict in UNTESTED or (found and row.verdict not in decision.limits.promotes):
            continue
        suite = ElementTree.SubElement(root, "testsuite", name=legal(row.variant))
        _verdict_case(suite, row, decision)
        for limit in row.limits:
            _limit_case(suite, row.variant, limit, unit_of(decision.relative))
    return _text(root)


def junit_without_verdict(reason: str) -> str:
    """The text of the file of a run that reached no verdict."""
    root = ElementTree.Element("testsuites", name="quantgate")
    suite = ElementTree.SubElement(root, "testsuite", name="run")
    _result(_case(suite, "run", "verdict"), "error", "no verdict", reason)
    return _text(root)


def legal(text: str) -> str:
    """The text, with each character that XML cannot contain as `\\u001b`."""
    return ILLEGAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _verdict_case(suite: ElementTree.Element, row: Verdict, decision: Decision) -> None:
    case = _case(suite, row.variant, f"verdict for {decision.use_case}")
    lines = "\n".join(filter(None, [row.sentence, row.next_step, f"Policy: {decision.policy}."]))
    if row.verdict in PASSING:
        ElementTree.SubElement(case, "system-out").text = legal(f"{row.verdict}: {lines}")
    else:
        kind = "error" if row.verdict in WITHOUT_JUDGEMENT else "failure"
        _result(case, kind, row.verdict, row.sentence, lines)


def _limit_case(suite: ElementTree.Element, variant: str, limit: LimitEvidence, unit: str) -> None:
    def text(value: float | None) -> str:
        return amount_text(value, limit.kind, (limit.limit,), unit)

    case = _case(suite, variant, f"{f'{limit.what} {subject_text(limit.kind)}'.rstrip()}, limit {text(limit.limit)}")
    numbers = f"measured {text(limit.estimate)}, at least {text(limit.lower)}, at most {text(limit.upper)}"
    if limit.outcome == "passed":
        ElementTree.SubElement(case, "system-out").text = legal(numbers)
        return
    more = f"; {about_text(limit.further_items)} more questions needed" if limit.further_items else ""
    sentence = f"{OUTCOMES[limit.outcome]}: the limit is {text(limit.limit)}, {numbers}{more}"
    _result(case, "failure", limit.outcome, sentence)


def _case(suite: ElementTree.Element, variant: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=legal(variant), name=legal(name))


def _result(case: ElementTree.Element, kind: str, outcome: str, sentence: str, lines: str = "") -> None:
    result = ElementTree.SubElement(case, kind, type=legal(outcome), message=legal(sentence))
    result.text = legal(lines or sentence)


def _text(root: ElementTree.Element) -> str:
    for suite in root:
        cases = suite.findall("testcase")
        suite.set("tests", str(len(cases)))
        for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(attribute, str(len(suite.findall(f"testcase/{kind}"))))
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
