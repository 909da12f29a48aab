"""`sightline doctor`: what is wrong with a run, from its directory alone, and what to do about it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sightline.commands.heat import heat_table
from sightline.commands.terminal import say
from sightline.doctor.diagnosis import Cause, Diagnosis, Examination, Fed, Spot
from sightline.doctor.examine import examine
from sightline.doctor.record import Record, read_record
from sightline.errors import UserError
from sightline.report.heat import gradients

SOUND, WRONG = 0, 3
MOST_STEPS = 10  # of a logged window whose rows are told
MOST_ROWS = 64
SHOWN_ROWS = 8
AGAIN = 3  # steps that share one row only: in fewer that happens by chance
ANSWER = 60  # characters of a row's answer
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def doctor(folder: Path, *, as_json: bool, strict: bool) -> int:
    """Examine the run in `folder` and say what was found; the exit status.

    Raises:
        UserError: there is no run to examine.
    """
    record = read_record(folder)
    found = with_rows(examine(record), record)
    if as_json:
        say(json.dumps(_plain(as_data(record, found)), indent=2))
    else:
        _show(record, found)
    return WRONG if strict and found.wrong else SOUND


def with_rows(found: Examination, record: Record) -> Examination:
    """The same, with the rows of the steps that are worth a look; why not, where they cannot be worked out."""
    notes: list[str] = []
    looks = [
        replace(look, found=tuple(_with_rows(one, record, notes) if one.spots else one for one in look.found))
        for look in found.looks
    ]
    return Examination(tuple(looks), (*found.notes, *dict.fromkeys(notes)))


def _with_rows(one: Diagnosis, record: Record, notes: list[str]) -> Diagnosis:
    if record.recipe is None:
        return one
    from sightline.train.fed import Fed as Feeding  # torch and the data are needed for this alone

    try:
        feeding = Feeding(record.folder, record.recipe, one.stage)
        fed: list[Fed] = []
        answers: dict[str, str] = {}
        for spot in one.spots:
            steps = range(max(spot.first, spot.last - MOST_STEPS + 1), spot.last + 1)
            places = [place for step in steps for place in feeding.rows(step)]
            answers |= {str(place): feeding.answer(place) for place in places[:MOST_ROWS]}
            fed.append(Fed(spot, tuple(map(str, places[:MOST_ROWS])), _proved(feeding, record, one, spot)))
    except (UserError, OSError, ValueError) as error:
        what = error.what if isinstance(error, UserError) else str(error)
        notes.append(f"the rows of the steps in question cannot be worked out again: {what}")
        return one
    if any(each.proved is False for each in fed):
        notes.append("rows: the data have changed since the run was fed them, so the rows told may be others")
    return replace(one, rows=tuple(fed), answers=answers, causes=(*_suspects(fed), *one.causes))


def _suspects(fed: Sequence[Fed]) -> list[Cause]:
    """A row that every one of the steps was fed, where it is the only one."""
    rows = [row for row, times in recurring(fed) if times == len(fed)]
    if len(rows) != 1 or len(fed) < AGAIN:
        return []
    remedy = "mend this row, or leave it out (data.<name>.where)"
    return [Cause("shown" if len(fed) > AGAIN else "likely", f"{rows[0]} is in all {len(fed)} of these steps", remedy)]


def _proved(feeding: Any, record: Record, one: Diagnosis, spot: Spot) -> bool | None:
    """By the print of the next logged step's rows: what holds of one step of a stage holds of all."""
    before = spot.step - spot.last  # steps of the stages before
    last = max((p.step for stage in record.stages if stage.name == one.stage for p in stage.points), default=0)
    logged = min((step for step in record.prints if spot.step <= step <= last), default=None)
    if logged is None:
        return None
    processes = int(record.facts.settings.get("processes") or 1)
    return bool(feeding.proved(logged - before, record.prints[logged], processes))


def recurring(rows: Sequence[Fed]) -> list[tuple[str, int]]:
    """Rows that more than one of the steps was fed, the most frequent first."""
    counts = Counter(row for fed in rows for row in set(fed.rows))
    return [(row, times) for row, times in counts.most_common() if times > 1]


def as_data(record: Record, found: Examination) -> dict[str, Any]:
    """The examination as data."""
    return {
        "run": str(record.folder),
        "status": record.facts.status,
        "verdict": _verdict(found),
        "looks": [{"about": look.about, "says": look.says, "recorded": look.recorded} for look in found.looks],
        "found": [_data(one) for one in found.found],
        "gradient_norms": asdict(grid) if (grid := gradients(record.history)) else None,
        "notes": list(found.notes),
    }


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are none are told in words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _data(one: Diagnosis) -> dict[str, Any]:
    told = asdict(one)
    told["causes"] = [asdict(cause) for cause in one.ordered()]
    told["recurring_rows"] = dict(recurring(one.rows))
    return told


def _verdict(found: Examination) -> str:
    if not found.wrong:
        return "nothing wrong"
    return f"{len(found.wrong)} things are wrong" if len(found.wrong) > 1 else "one thing is wrong"


def _show(record: Record, found: Examination) -> None:
    say(f"run {record.folder}: {record.facts.name}, {record.facts.status}", "")
    for look in found.looks:
        mark = "?" if not look.recorded else "x" if any(one.severity != "note" for one in look.found) else "-"
        say(f"  {mark} {look.about}: {look.says}", style="yellow" if mark == "x" else "dim" if mark == "?" else "")
    heat_table(record.history)
    for number, one in enumerate(found.found, start=1):
        _show_one(number, one)
    say("")
    for note in found.notes:
        say(f"note: {note}")
    unseen = sum(not look.recorded for look in found.looks)
    of = f" ({unseen} of {len(found.looks)} looks had nothing to look at)" if unseen else ""
    say(f"verdict: {_verdict(found)}{of}", style="bold")


def _show_one(number: int, one: Diagnosis) -> None:
    say("")
    say(f"{number}. {one.severity}: {one.says}", style=STYLES[one.severity])
    for name, value in one.seen.items():
        lines = (f"{value:.3g}" if isinstance(value, float) else str(value)).splitlines() or [""]
        say(f"     {name}: {lines[0]}", *(f"       {line}" for line in lines[1:]))
    again = recurring(one.rows)
    for row, times in again[:SHOWN_ROWS]:
        say(f"     in {times} of these {len(one.rows)} steps: {_row(row, one)}")
    for fed in one.rows:
        _show_rows(fed, one, SHOWN_ROWS // 4 if again else SHOWN_ROWS)
    for place, cause in enumerate(one.ordered()):
        say(f"   {chr(ord('a') + place)}) {cause.likelihood}: {cause.says}", f"      {cause.do}")


def _show_rows(fed: Fed, one: Diagnosis, most: int) -> None:
    spot = fed.spot
    steps = f"step {spot.last:,}" if spot.first == spot.last else f"steps {spot.first:,} to {spot.last:,}"
    sure = {True: "as the run wrote down", False: "NOT as the run wrote down", None: "by the recipe"}[fed.proved]
    say(f"     rows of {steps} ({sure}):")
    for row in fed.rows[:most]:
        say(f"       {_row(row, one)}")
    if len(fed.rows) > most:
        say(f"       and {len(fed.rows) - most} more (--json lists them)")


def _row(row: str, one: Diagnosis) -> str:
    """The row's place, and what it answers as far as a line has room."""
    answer = " ".join(one.answers.get(row, "").split())
    return f"{row} ({answer if len(answer) <= ANSWER else answer[:ANSWER] + '...'})" if answer else row
