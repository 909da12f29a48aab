"""Training: stages, freezing, rates, the step, the loop and its checkpoints."""
