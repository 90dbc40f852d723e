"""The step `gate`: may a variant replace the model that serves today?

counted         the decision with its attempt's number, which is recorded
flipped_items   the questions whose answer changed from the baseline to the variant
saved           read results from disk: a run's or lm-eval's
saved_prospect  what saved answers can show, before they are judged
harness_groups  lm-eval's groups of tasks
results_files   the files that the gate reads and writes

The decision matrix is in components/evidence/decision.py, and verdicts with per-item answers, such as `ship`, are in
components/evidence/judging.py.
"""
