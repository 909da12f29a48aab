"""Attacks on pictures, one file each: tensors in, tensors out; no model is known here, only a loss of pixels."""
