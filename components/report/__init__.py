"""The report of a run: the decision matrix and what it rests on, for a browser, for Markdown, a terminal and scripts.

    Decision -> matrix -> report.html, report.md, a table in the terminal, JSON

Numbers stay exact up to `formats`, the only place that rounds.
"""
