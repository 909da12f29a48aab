"""What each command of `sightline` does, behind `cli.py`."""
