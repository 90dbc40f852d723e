"""The model registry: which weights may serve, by which verdict, and which weights served before.

There is one registered model for each base model and use case. Every variant with a verdict becomes a version of it.
Three aliases name versions; a platform serves `champion` and nothing else.

    candidate   the best version of the run that was tracked last
    champion    the version that may serve: only promote moves it, by a verdict in the artifacts of MLflow's run
    previous    the version that the champion replaced; rollback swaps the two

Anyone who may write to MLflow can edit tags and files. So promote takes the verdict from the decision in the run's
artifacts, compares the decision with the digests that the run was recorded with, and the weights with the version's.

registry                        register the variants of a run as versions
promotion                       move the aliases: promote, rollback
alias_move                      both aliases together, also after a kill
judged_version                  the verdict on a version, and why it may not serve
kubeflow_registry               the same variants in a Kubeflow Model Registry
inference_service               a patch for KServe that names the weights
"""
