"""Which switch holds a Q-Former that is made to fail? Each alone, on top of one failing set-up, over five seeds.

    python benchmarks/stability.py [--seeds 5] [--work runs/stability] [--only ARM ...]

The model (stability.yaml) is a Q-Former of eight layers between a frozen vision tower and a small language tower; it
learns to say easy-VQA's captions ("a teal circle"), 300 steps of 32. The failing set-up: norms behind the sums, as
BERT and BLIP-2 have them, ten times the connector's learning rate, and no warm-up. The language tower always has a rate
that it can bear, so it learns to guess; only the Q-Former can tell it what is in the picture. The loss of a run that
fails does not leave for infinity: it stays where guessing is. (In one that was opened, the last layer's output varied
between pictures by 1e-9 of its size; with norms before the branches, by 0.6.)

Judged by the median loss of the last 30 steps, in nats a token. Arms and limits were fixed looking at other seeds:
  guessing   the entropy of the captions: the best loss without the picture
  diverged   not a number, or not at least 5 % below guessing: the Q-Former says nothing of the picture
  held       at least half of the way from guessing to the healthy set-up (the right rate, warmed up)
  slow       what lies between

The guard watches every run at its default settings; whether it speaks, and of which layer, is a column of the result.
A finished run is kept in --work and not run again. stability.md and stability.svg are written from all finished runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf, isfinite, log
from pathlib import Path
from typing import Any

import torch

from sightline.data.dataset import read_rows
from sightline.errors import UserError
from sightline.recipe import load
from sightline.train.run import train

HERE = Path(__file__).parent
RECIPE, PAGE, PLOT = HERE / "stability.yaml", HERE / "stability.md", HERE / "stability.svg"
FIRST_SEED = 10  # lower ones were looked at while this was made
LAST, EVERY = 3, 10  # logged losses that the verdict is taken from; steps that each is a mean over
DIVERGED = 0.95  # of guessing
LAYERS, STAGE = "model.compose.connector.layers", "stages.write"
UNSTABLE = (f"{STAGE}.lr={{language: 1e-3, connector: 1e-2}}", f"{STAGE}.schedule.warmup=0.0")
HEALTHY, BASELINE = "healthy", "unstable"
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {  # name -> what it is, and what it changes in the unstable set-up
    HEALTHY: ("post-LN, the right rate, warm-up of 30 steps", ()),
    BASELINE: ("post-LN, rate x 10, no warm-up", UNSTABLE),
    "pre-LN": ("norms before the branches", (f"{LAYERS}.place=pre",)),
    "RMSNorm": ("in place of LayerNorm, behind the sums", (f"{LAYERS}.norm=rmsnorm",)),
    "QK-norm": ("queries and keys normed by head", (f"{LAYERS}.qk_norm=true",)),
    "dropout": (
        "attention and path dropout 0.1, rising over 100 steps",
        (f"{LAYERS}={{attention_dropout: 0.1, path_dropout: 0.1}}", f"{STAGE}.dropout_warmup=100"),
    ),
    "zero-init": ("branches end in 0 at the start", ("model.compose.connector.start.residual=zero",)),
    "Xavier": ("linear maps by Glorot's bound", ("model.compose.connector.start.weights=xavier",)),
    "warm-up": ("of 100 steps", (f"{STAGE}.schedule.warmup=100",)),
    "layers, top first": ("each lower layer warms up 25 steps longer", (f"{STAGE}.schedule.layers={{steps: 25}}",)),
    "layers, bottom first": (
        "each higher layer warms up 25 steps longer",
        (f"{STAGE}.schedule.layers={{steps: 25, first: bottom}}",),
    ),
    "clip, global": ("norm of all gradients 1.0", (f"{STAGE}.optimizer.clip=1.0",)),
    "clip, by tower": (
        "the connector's norm 0.1, the language tower's 1.0",
        (f"{STAGE}.optimizer.clip={{connector: 0.1, language: 1.0}}",),
    ),
    "clip, adaptive": ("units at 0.01 of their weights", (f"{STAGE}.optimizer.clip={{adaptive: 0.01}}",)),
    "pre-LN + warm-up": ("both", (f"{LAYERS}.place=pre", f"{STAGE}.schedule.warmup=100")),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One finished run. `losses`: means of ten steps each. `findings`: the guard's, notes left out."""

    arm: str
    seed: int
    digest: str
    losses: list[float]
    seconds: float
    findings: list[dict[str, Any]]

    @property
    def final(self) -> float:
        """The loss that is judged; infinite where the run broke off."""
        return statistics.median(self.losses[-LAST:]) if all(map(isfinite, self.losses)) else inf


def overrides(arm: str, seed: int) -> list[str]:
    """What `arm` changes in stability.yaml."""
    mine = ARMS[arm][1]
    return [*(UNSTABLE if arm != HEALTHY else ()), *mine, f"seed={seed}", f"log_every={EVERY}"]


def digest(arm: str, seed: int) -> str:
    """Names the run: another recipe is another run."""
    return hashlib.sha256((RECIPE.read_text() + "\n".join(overrides(arm, seed))).encode()).hexdigest()[:16]


def run(arm: str, seed: int, work: Path) -> Cell:
    """Train it, with the guard on, and keep what it logged."""
    folder, start = work / "now", time.process_time()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        train(load(str(RECIPE), overrides(arm, seed)), folder)
        broke = False
    except UserError as error:  # the trainer stops where the loss is no number
        if "no longer a number" not in str(error):
            raise
        broke = True
    losses = [event["loss"] for event in _lines(folder / "metrics.jsonl") if event["event"] == "train"]
    found = [line for line in _lines(folder / "findings.jsonl") if line["kind"] == "finding"]
    told = [{key: line[key] for key in ("code", "severity", "step", "message")} for line in found]
    told = [line for line in told if line["severity"] != "note"]
    return Cell(arm, seed, digest(arm, seed), losses + [inf] * broke, time.process_time() - start, told)


def finished(work: Path) -> list[Cell]:
    """The runs that are done and are still of today's recipe."""
    cells = [Cell(**line) for line in _lines(work / "cells.jsonl")]
    return [cell for cell in cells if cell.arm in ARMS and cell.digest == digest(cell.arm, cell.seed)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def guessing() -> float:
    """Entropy of the captions over their tokens (their words and the end), in nats: what a blind guess can reach."""
    rows = read_rows(load(str(RECIPE)).data["captions"], "captions").rows
    captions = Counter(row.turns[-1].text for row in rows)
    total = sum(captions.values())
    entropy = -sum(count / total * log(count / total) for count in captions.values())
    return entropy / (sum(count * (len(caption.split()) + 1) for caption, count in captions.items()) / total)


def verdict(final: float, guess: float, healthy: float) -> str:
    """See the module."""
    if final >= DIVERGED * guess:
        return "diverged"
    return "held" if final <= (guess + healthy) / 2 else "slow"


# --- the page ------------------------------------------------------------------------------------------------------


def page(cells: Sequence[Cell], guess: float) -> str:
    """stability.md."""
    healthy = statistics.median(cell.final for cell in cells if cell.arm == HEALTHY)
    about = (__doc__ or "").split("\n\n")[2]
    now, machine = datetime.now(UTC).date(), f"{platform.system()} {platform.machine()}"
    minutes = sum(cell.seconds for cell in cells) / 60
    lines = [
        "# Cross-attention stability",
        "",
        f"Written by `python benchmarks/stability.py` ({now}, {machine}, torch {torch.__version__}, one thread; "
        f"{len(cells)} runs, {minutes:.0f} minutes of processor time).",
        "",
        about,
        "",
        "Judged by the median loss of the last 30 steps, in nats a token. Arms and limits were fixed looking at "
        "other seeds:",
        "",
        f"- **guessing**: {guess:.3f}, the entropy of the captions, the best loss without the picture",
        f"- **diverged**: no number, or above {DIVERGED * guess:.3f} ({DIVERGED:.0%} of guessing): nothing of the "
        "picture comes through",
        f"- **held**: at most {(guess + healthy) / 2:.3f}, half of the way from guessing to the healthy set-up's "
        f"{healthy:.3f}",
        "- **slow**: what lies between",
        "",
        "![Final loss of each run](stability.svg)",
        "",
        "| arm | what it changes in the unstable set-up | held | slow | diverged | median loss | the guard speaks |",
        "|---|---|---|---|---|---|---|",
        *_rows(cells, guess, healthy),
        "",
        "## What the guard says of the unstable runs",
        "",
        *_findings(cells),
        "",
        *_spoken(cells, guess, healthy),
    ]
    return "\n".join(lines) + "\n"


def _rows(cells: Sequence[Cell], guess: float, healthy: float) -> Iterator[str]:
    for arm, (what, _) in ARMS.items():
        mine = [cell for cell in cells if cell.arm == arm]
        if mine:
            told = Counter(verdict(cell.final, guess, healthy) for cell in mine)
            counts = " | ".join(f"{told[word]} of {len(mine)}" for word in ("held", "slow", "diverged"))
            spoke = sum(bool(cell.findings) for cell in mine)
            median = statistics.median(cell.final for cell in mine)
            yield f"| {arm} | {what} | {counts} | {median:.3f} | {spoke} of {len(mine)} |"


def _findings(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in sorted((cell for cell in cells if cell.arm == BASELINE), key=lambda cell: cell.seed):
        for line in cell.findings:
            yield f"- seed {cell.seed}, step {line['step']}, {line['code']} ({line['severity']}): {line['message']}"


def _spoken(cells: Sequence[Cell], guess: float, healthy: float) -> Iterator[str]:
    """Over all arms: in how many runs of each verdict the guard spoke, and where that is not as one would like."""
    told = {word: [c for c in cells if verdict(c.final, guess, healthy) == word] for word in COLOURS}
    spoke = ", ".join(f"{sum(bool(c.findings) for c in those)} of {len(those)} {word}" for word, those in told.items())
    yield f"Over all arms it speaks in {spoke} runs."
    quiet = Counter(cell.arm for cell in told["diverged"] if not cell.findings)
    loud = Counter(cell.arm for cell in told["held"] if cell.findings)
    for what, arms in (("Diverged, and it is silent", quiet), ("Held, and it speaks", loud)):
        if arms:
            yield f"{what}: {', '.join(f'{arm} ({count})' for arm, count in arms.items())}."


# --- the plot ------------------------------------------------------------------------------------------------------

LEFT, TOP, ROW, WIDE, RIGHT = 170, 58, 30, 640, 24
COLOURS = {"held": "#1b7f5c", "slow": "#c98a00", "diverged": "#b3362b"}
MARKS = {"held": "circle", "slow": "diamond", "diverged": "cross"}  # so that colour says nothing alone


def plot(cells: Sequence[Cell], guess: float) -> str:
    """stability.svg: a mark for each run at its final loss, an arm a row."""
    healthy = statistics.median(cell.final for cell in cells if cell.arm == HEALTHY)
    arms = [arm for arm in ARMS if any(cell.arm == arm for cell in cells)]
    most = 1.15 * max(guess, *(min(cell.final, 2 * guess) for cell in cells))
    height = TOP + ROW * len(arms) + 46

    def x(loss: float) -> float:
        return LEFT + min(loss, most) / most * (WIDE - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="Final loss of each run, by arm">',
        f'<rect width="{WIDE}" height="{height}" fill="#ffffff"/>',
        *_lines_at(x, {"guessing": guess, "healthy": healthy, "held": (guess + healthy) / 2}, height),
    ]
    for row, arm in enumerate(arms):
        y = TOP + ROW * (row + 0.5)
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end" fill="#222222">{arm}</text>')
        mine = sorted((cell for cell in cells if cell.arm == arm), key=lambda cell: cell.seed)
        for place, cell in enumerate(mine):  # one above the other, so that none hides another
            apart = 4 * (place - (len(mine) - 1) / 2)
            parts.append(_mark(x(cell.final), y + apart, verdict(cell.final, guess, healthy)))
    parts += _axis(x, most, height)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines_at(x: Any, named: dict[str, float], height: int) -> Iterator[str]:
    for row, (name, loss) in enumerate(named.items()):
        yield f'<line x1="{x(loss):.1f}" x2="{x(loss):.1f}" y1="{TOP - 6}" y2="{height - 40}" stroke="#aaaaaa"/>'
        yield (
            f'<text x="{x(loss):.1f}" y="{TOP - 12 - 14 * (row == 2)}" text-anchor="middle" fill="#555555">'
            f"{'held below' if name == 'held' else name} {loss:.2f}</text>"
        )


def _mark(x: float, y: float, told: str) -> str:
    colour = COLOURS[told]
    if MARKS[told] == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.75"/>'
    if MARKS[told] == "diamond":
        return f'<path d="M{x:.1f} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z" fill="{colour}" fill-opacity="0.75"/>'
    return f'<path d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6" stroke="{colour}" stroke-width="2"/>'


def _axis(x: Any, most: float, height: int) -> Iterator[str]:
    for tenth in range(0, int(most * 10) + 1, 2):
        loss = tenth / 10
        yield f'<text x="{x(loss):.1f}" y="{height - 24}" text-anchor="middle" fill="#555555">{loss:.1f}</text>'
    words = "final loss, nats a token; one mark a run: circle held, diamond slow, cross diverged"
    yield f'<text x="{LEFT}" y="{height - 6}" fill="#222222">{words}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/stability"))
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    guess = guessing()
    for seed in range(FIRST_SEED, FIRST_SEED + asked.seeds):
        for arm in asked.only:
            if any((cell.arm, cell.seed) == (arm, seed) for cell in finished(asked.work)):
                continue
            cell = run(arm, seed, asked.work)
            with (asked.work / "cells.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(cell)) + "\n")
            spoke = ", ".join(line["code"] for line in cell.findings) or "-"
            print(f"{arm}, seed {seed}: {cell.final:.3f} ({cell.seconds:.0f} s; guard: {spoke})", flush=True)
    cells = finished(asked.work)
    PAGE.write_text(page(cells, guess), encoding="utf-8")
    PLOT.write_text(plot(cells, guess), encoding="utf-8")
    print("\n".join(_rows(cells, guess, statistics.median(c.final for c in cells if c.arm == HEALTHY))))


if __name__ == "__main__":
    main()
