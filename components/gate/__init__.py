"""The gate: may a variant replace the model that serves today? Pure functions, numbers in and a verdict out.

decision              the decision matrix
policy, policy_file   the bands and the use cases' limits, as YAML that a person edits
candidate, answers    what is held of each variant, and whether two may be compared at all
point                 the form of the judgement without per-item answers: measured drops, taken at their word
evidence              the form with them: confidence bounds, and no verdict beyond them
  margin, flips       the statistics
  limits, case        the policy's limits as tests on one variant's answers
  looks               what each look at a variant may err by, when it may be stopped early
  sentences           what it says to a release manager
saved                 results that lie on a disk, lm-eval's own among them
"""
