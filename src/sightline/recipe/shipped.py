"""The recipes that come with Sightline: the YAML files of `sightline/recipes/`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "recipes"


def shipped_file(name: str) -> Path | None:
    """The file of the shipped recipe `name`, or None."""
    path = FOLDER / f"{name}.yaml"
    return path if path.is_file() else None


def shipped() -> dict[str, str]:
    """Name and one-line summary of each shipped recipe."""
    return {path.stem: _summary(path) for path in sorted(FOLDER.glob("*.yaml"))}


def _summary(path: Path) -> str:
    # A line scan, not a YAML parse: listing recipes must stay instant.
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("summary:"):
            return line.removeprefix("summary:").strip().strip("\"'")
    return ""
