"""Checks whose fix is made in how the ranks work together."""
