"""Checks whose fix is made in the precision room: number formats and magnitudes."""
