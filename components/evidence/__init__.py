"""Verdicts from paired answers: confidence bounds on each drop, and a verdict that they support. Pure functions.

candidate, answers    the scores and answers of one variant, and whether two variants are comparable
saved_answers         the same, read from a run's results
unscored_items        items of flows without a judge's verdict, which count for no variant
decision              the decision matrix: which variants can be judged at all
point                 verdicts without per-item answers: measured drops, without confidence bounds
pareto                which variants of a search are on the Pareto front of size, speed and drop
search                whether a variant that a search has judged makes the larger ones needless
reference             whether the baseline has the scores without which no variant can be judged
published_check       whether the baseline scores what others have published for it
judging               the verdicts on variants whose answers are paired with the baseline's: the rule is `_judge`
  margin, flips       the statistics
  clusters, gamma_tail
                      parts of them: items in clusters; the tail of a weighted sum
  choice_margins      scores from the margins of multiple-choice items, where the policy counts them
  lengths, worst_cluster
                      limits on longer and cut answers, and on the worst cluster
  speed_limits        limits on a load test
  noise               the difference of two passes of the baseline
  drops, limits, case, no_loss
                      the policy's limits as statistical tests on one variant's answers
  further_items       how many further items decide a limit
  power, prospects, assumed_answers, forecast
                      before a run: the questions that a limit needs, the verdicts to expect, and both in a few lines
  looks, stopping     the error that each look may use, and when a variant stops early
  spending            the error that each attempt, and each run that continues it, may use
  sentences, change, next_steps
                      the sentences for a release manager
"""
