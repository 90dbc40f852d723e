"""MLflow: its address, its client, its pages, and the results of earlier runs."""
