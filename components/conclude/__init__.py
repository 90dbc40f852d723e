"""The step `conclude`: fail a run with bad verdicts at its end, where Kubeflow's list of runs and alerts see it."""
