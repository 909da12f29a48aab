"""How fast are predictions scored? `sightline score vqa` beside a straightforward implementation, on files.

    python benchmarks/score_vqa.py [--questions 200000] [--turns 5]

The files are VQAv2's in form, with answers drawn from those of `../shared/data/vqav2_text` where it is there, else from
an invented list. Both ways are processes of their own: start, reading and printing are included. *straightforward*
loads each file with `json.load` and does, question by question, what the official code does (the tests' reference,
`tests/evaluate/vqa/plain.py`). Times are of processor (user and system) and wall, the median of the turns, the ways
taken by turns; memory is the peak. The figures of both must be equal, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "vqav2_text" / "vqa_annotatons_train.gzip"
PLAIN = """
import json, sys
sys.path.insert(0, {root!r})
from tests.evaluate.vqa.plain import accuracy
questions, annotations, predictions = (json.load(open(path)) for path in sys.argv[1:4])
given = {{each["question_id"]: each["answer"] for each in predictions}}
marks = [accuracy("official", given[a["question_id"]], a["answers"]) for a in annotations["annotations"]]
total = 0.0
for mark in marks:
    total += mark
print(json.dumps({{"overall": round(100 * total / len(marks), 2)}}))
"""


def write(folder: Path, count: int) -> list[Path]:
    """The three files of `count` questions."""
    draw = random.Random(0)
    if REAL.exists():
        with gzip.open(REAL) as file:
            known = json.load(file)["annotations"]
    else:
        pool = ["yes", "no", "2", "two", "red", "the table", "t-shirt", "on the left", "don't know", "1,000"]
        known = [{"answers": _people(draw.choices(pool, k=10)), "question_type": "what", "answer_type": "other"}]
    annotations, questions, predictions = [], [], []
    for number in range(count):
        source = known[number % len(known)]
        record = {key: source[key] for key in ("question_type", "answers", "answer_type")}
        annotations.append(record | {"question_id": number, "image_id": number // 5, "multiple_choice_answer": "yes"})
        questions.append({"question_id": number, "image_id": number // 5, "question": "What is in the picture?"})
        predictions.append(
            {"question_id": number, "answer": draw.choice([*source["answers"], {"answer": "yes"}])["answer"]}
        )
    paths = []
    for name, value in (("questions", questions), ("annotations", annotations), ("predictions", predictions)):
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(value if name == "predictions" else {name: value}), encoding="utf-8")
    return paths


def _people(answers: list[str]) -> list[dict[str, Any]]:
    return [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(answers, 1)]


def run(command: list[str]) -> tuple[float, float, float, float]:
    """Wall seconds, processor seconds, peak MB and the overall figure of a process."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command[:4]} ended with {process.returncode}")
    peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
    return wall, usage.ru_utime + usage.ru_stime, peak, json.loads(printed)["overall"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), asked.questions)
        flags = [part for path in paths for part in (f"--{path.stem}", str(path))]
        ways = {
            "sightline score vqa": [sys.executable, "-m", "sightline", "score", "vqa", *flags, "--json"],
            "straightforward": [sys.executable, "-c", PLAIN.format(root=str(ROOT)), *map(str, paths)],
        }
        seen: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in ways}
        for _ in range(asked.turns):
            for name, command in ways.items():
                seen[name].append(run(command))
    if len({each[3] for turns in seen.values() for each in turns}) != 1:
        raise SystemExit(f"the figures differ: {seen}")
    print(f"{asked.questions:,} questions, {asked.turns} turns\n")
    print("| way | wall, s | processor, s | peak memory, MB |\n|---|---|---|---|")
    for name, turns in seen.items():
        wall, busy, peak = (statistics.median(each[place] for each in turns) for place in range(3))
        print(f"| {name} | {wall:.2f} | {busy:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
