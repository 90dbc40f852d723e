"""The report of a run: the decision matrix and its evidence, for a browser, Markdown, a terminal and scripts.

    Decision -> matrix -> report.html, report.md, a table in the terminal, JSON

Numbers stay exact until `formats` prints them: only `formats` rounds.
"""
