"""Training: fitting, pre-training, checkpoints, threshold and temperature, the report."""
