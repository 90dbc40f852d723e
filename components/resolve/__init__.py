"""The step `resolve`: check the parameters, and store the model and the rows for the run."""
