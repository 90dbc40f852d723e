"""The report of a run: the decision matrix and what it rests on, for a browser, for Markdown, a terminal and scripts.

    Decision -> matrix -> report.html, report.md, a table in the terminal, JSON

Numbers stay exact up to `formats`, the only place that rounds.
"""

from components.report.matrix import matrix, verdicts_json
from components.report.pages import plots, write_report
from components.report.terminal import terminal_evidence, terminal_matrix

__all__ = ["matrix", "plots", "terminal_evidence", "terminal_matrix", "verdicts_json", "write_report"]
