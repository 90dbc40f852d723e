"""The step `resolve`: check the parameters, and bring model and rows to where the run finds them."""
