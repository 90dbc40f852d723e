"""The report of a run: the decision matrix and its evidence, for a browser, Markdown, a terminal and scripts.

    Decision -> matrix -> report.html, report.md, a table in the terminal, JSON

Numbers stay exact until `formats` prints them: only `formats` rounds.

matrix, formats                 the decision matrix; numbers as text
pages, terminal                 HTML and Markdown; the terminal
story, screen, answer_lengths   the parts beside the matrix
flow_table                      the flows: before and after, and what broke
load_table, load_plot           the load tests
front                           a search: the Pareto front, and why it went on
published_table                 the baseline beside published scores
plots, forest, figures, svg     the plots, for the page and for notebooks
stated_limits                   the limits that the plots draw
prospect_table                  what a run can show, as a table
junit                           the verdicts as JUnit XML, for CI
model_card, hub_results         a variant's card; its scores as Hugging Face's hub reads them
summary                         an evaluated model as a JSON file
judged_pages, judged_plot       replies that a judge or people compared or graded
"""
