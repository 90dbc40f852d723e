"""The report of a run: the decision matrix and its evidence, for a browser, Markdown, a terminal and scripts.

    Decision -> matrix -> report.html, report.md, a table in the terminal, JSON

Numbers stay exact until `formats` prints them: only `formats` rounds.

matrix, formats                 the decision matrix; numbers as text
pages, terminal                 HTML and Markdown; the terminal
story, screen, answer_lengths   the parts beside the matrix
flow_table                      the flows: before and after, and what broke
load_table, load_plot           the load tests
plots, forest, figures, svg     the plots, for the page and for notebooks
stated_limits                   the limits that the plots draw
prospect_table                  what a run can show, as a table
junit                           the verdicts as JUnit XML, for CI
summary                         an evaluated model as a JSON file
judged_pages, judged_plot       replies that a judge or people compared or graded
"""
