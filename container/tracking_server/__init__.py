"""What runs inside the kit's container: MLflow's tracking server, its schema migration, its self-check."""
