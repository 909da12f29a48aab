"""Findings in words."""

from __future__ import annotations

from sightline.guard.report import proven


def test_what_was_not_measured_is_left_out() -> None:
    assert proven({"shared": 12, "moved by": None, "gap": 0.123456}) == "shared 12, gap 0.1235"
    assert proven({"moved by": None}) == ""
