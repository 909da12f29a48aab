from __future__ import annotations

import math

import pytest

from sightline.report import format as f

S = f.SPACE


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (f.whole, 9673, "9,673"),
        (f.short, 850, "850"),
        (f.short, 38_575, f"38.6{S}k"),
        (f.short, 1_234_567, f"1.23{S}M"),
        (f.short, 7_063_427_072, f"7.06{S}B"),
        (f.percent, 0.981, f"98.1{S}%"),
        (f.percent, 0.9996, f"99.96{S}%"),  # never 100.0 % while something was wrong
        (f.percent, 0.0002, f"0.02{S}%"),
        (f.percent, 1.0, f"100.0{S}%"),
        (f.percent, 0.0, f"0.0{S}%"),
        (f.number, 0.03124, "0.0312"),
        (f.number, 12_345.0, "12,345"),
        (f.number, 2e-5, "2e-5"),
        (f.number, 0.0, "0"),
        (f.scientific, 1e-3, "1e-3"),
        (f.scientific, 2.5e-5, "2.5e-5"),
        (f.scientific, -2e10, "-2e10"),
        (f.seconds, 0.84, f"0.8{S}s"),
        (f.seconds, 59.7, f"1{S}min 00{S}s"),
        (f.seconds, 272, f"4{S}min 32{S}s"),
        (f.seconds, 7530, f"2{S}h 05{S}min"),
        (f.seconds, 300_000, f"3{S}d 11{S}h"),
        (f.size, 492, f"492{S}B"),
        (f.size, 3_249_664, f"3.10{S}MiB"),
        (f.size, 8 * 2**30, f"8.00{S}GiB"),
        (f.tick, 0.05, "0.05"),
        (f.tick, 5e-5, "5e-5"),
        (f.tick, 5000.0, "5,000"),
        (f.tick, 15_000.0, f"15{S}k"),
        (f.date, "2025-11-20T23:10:00+00:00", "20 November 2025, 23:10 UTC"),
        (f.date, "yesterday", "yesterday"),
    ],
)
def test_numbers_as_people_write_them(write, value, text):
    assert write(value) == text


@pytest.mark.parametrize("write", [f.whole, f.short, f.percent, f.number, f.scientific, f.seconds, f.size])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_there_is_a_dash(write, value):
    assert write(value) == f.NONE


def test_a_long_text_says_how_long_it_is():
    assert f.cut("a" * 600) == "a" * 600
    assert f.cut("a" * 5000).endswith("… (5,000 characters)")


def test_plural():
    assert (f.plural(1, "check"), f.plural(1200, "check")) == (f"1{S}check", f"1,200{S}checks")
