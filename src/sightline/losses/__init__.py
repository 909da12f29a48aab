"""Objectives, one a file: tensors in, (sum, count) out. `train/step.py` alone divides."""
