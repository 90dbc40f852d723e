"""The step `resolve`: check the parameters; store the model, the rows and the prompts; choose the window.

checks                          the parameters
input_copies, rows              the run's copies of its inputs and of the benchmarks' rows
prepared_prompts                the prompts as token ids, once a run; the window; the items that are too long for it
earlier_verdict                 a verdict that MLflow has already
"""
