"""MLflow: its address, its client, its pages, and what it knows of earlier runs."""
