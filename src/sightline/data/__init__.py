"""Rows in any format, as examples and batches."""
