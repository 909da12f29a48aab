"""Checks whose fix is made in the evaluation room: how a model is judged."""
