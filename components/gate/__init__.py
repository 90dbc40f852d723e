"""The step `gate`: may a variant replace the model that serves today?

decision        the decision matrix
point           the form of the judgement without per-item answers: measured drops, taken at their word
flipped_items   the questions that a variant answers otherwise than the baseline
power           how many questions a limit takes
saved           results that lie on a disk, lm-eval's own among them

The form with per-item answers is in components/evidence.
"""
