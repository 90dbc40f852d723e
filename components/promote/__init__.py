"""The model registry: which weights may serve, by which verdict, and what served before.

Every variant that was judged becomes a version of one registered model, for each base model and use case. Three aliases
say what is what; a platform serves `champion` and nothing else.

    candidate   the best of the run that was tracked last
    champion    what may serve: only promote moves it, and only by a verdict that MLflow's run still holds
    previous    what the champion replaced; rollback swaps the two

Tags can be edited by anyone who may write to MLflow, so that promote takes the verdict from the run's own artifacts and
compares their digests with the version's.
"""
