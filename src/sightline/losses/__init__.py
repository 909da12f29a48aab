"""Objectives, one a file: tensors in, (sum, count) out. Dividing is `train/step.py`'s, the only place that knows the count."""
