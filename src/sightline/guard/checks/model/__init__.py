"""Checks whose fix is made in the model room: towers, freezing, attention."""
