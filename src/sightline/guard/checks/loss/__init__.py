"""Checks whose fix is made in the loss room: what is minimised and divided by what."""
