"""The steps of the pipeline, a folder each, and what they share; `errors` has the error that a user can mend."""
