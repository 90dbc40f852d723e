"""What carries a verdict out: files for GitOps that serve a variant on KServe, in steps, and take it back.

    Decision, variant -> rollout_plan -> gitops_files -> a folder for kustomize, or apply_to_cluster

rollout_plan                    what a verdict allows: its steps, or why there are none
kserve_services                 the InferenceService and the LLMInferenceServices of a step
live_metrics                    what to watch while two variants serve: queries and alerts for Prometheus
live_test                       how many requests settle an A/B test
modelcar                        weights as an OCI image
gitops_files                    all files of a rollout, by name
apply_to_cluster                apply a step to a cluster
storage_address                 whether KServe can load weights from an address, and the facts that name them
"""
