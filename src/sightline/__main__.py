"""`python -m sightline`: the same as the `sightline` command."""

from __future__ import annotations

from sightline.cli import app

if __name__ == "__main__":
    app(prog_name="sightline")
