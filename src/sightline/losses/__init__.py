"""Objectives, one a file: tensors in, (sum, count) out. Dividing is for `train/step.py`, which alone knows the count."""
