"""Checks whose fix is made in the data room: rows, labels, padding, image tokens."""
