"""Checks whose fix is made in the optim room: optimizer, learning rates, steps."""
