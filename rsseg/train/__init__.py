"""Training: which modalities a step may see, the Lightning task, and the run."""
