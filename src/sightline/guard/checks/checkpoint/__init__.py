"""Checks whose fix is made in the checkpoint room: what is saved and read back."""
