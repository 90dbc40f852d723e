"""What paired answers show: confidence bounds on each drop, and no verdict beyond them. Pure functions.

candidate, answers    what is held of each variant, and whether two may be compared at all
saved_answers         the same, as a run's results hold it
judging               the verdicts on variants whose answers are paired with the baseline's
  margin, flips       the statistics
  limits, case        the policy's limits as tests on one variant's answers
  looks, stopping     what each look at a variant may err by, when it may be stopped early
  sentences, change   what it says to a release manager
"""
