"""`quantgate doctor --cluster`: what would stop a run on this cluster, and the remedy. It changes nothing.

cluster_doctor, finding         all checks in order; what a check finds
pipeline_needs                  what a compiled pipeline needs
installed, admission            versions; whether the cluster would accept our objects
run_account, mounted            rights; Secrets and volumes
object_stores, mlflow_answer    where artifacts and weights are stored; MLflow
registry_images, capacity       images; GPUs and quota
"""
