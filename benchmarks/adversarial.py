"""What does training on attacked pictures buy, and what does it cost?

    python benchmarks/adversarial.py [--seeds 3] [--work runs/adversarial] [--only ARM ...]

The model is the quickstart's made smaller (pictures of 32 x 32 pixels), on easy-VQA's questions for colours and
shapes: STEPS steps of 24 pictures, from nothing. Each arm has the same seeds, data and steps; the robust ones make
their attack anew in every step, in 2 steps of its own. Judged by the answers to QUESTIONS test questions about
pictures that no arm saw: untouched, and attacked by PGD with 10 steps. So few steps leave every arm short of what it
could learn (the whole quickstart answers 99.9 %); it is the difference between arms that is measured. Runs are kept in
--work, each with its report, and not run again; adversarial.md is written from all that are there.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sightline.data.dataset import read_rows
from sightline.evaluate.robust.run import FILE, measure
from sightline.models.saved import load_run
from sightline.recipe import load
from sightline.recipe.schema import Recipe
from sightline.report.page import write_report
from sightline.train.run import train

HERE = Path(__file__).parent
PAGE = HERE / "adversarial.md"
STEPS, QUESTIONS = 300, 200
BOUNDS = (2, 4, 8)  # of 255
STAGE = "stages.see"
SET_UP = (
    "model.compose.vision.image_size=32",
    "model.compose.vision.config={model_type: resnet, embedding_size: 24, hidden_sizes: [32, 48], depths: [1, 1], "
    "layer_type: basic}",
    "model.compose.language.config.num_hidden_layers=2",
    "model.compose.language.config.hidden_size=96",
    "model.compose.language.config.intermediate_size=192",
    "data.test.where={type: [color, shape]}",
    f"{STAGE}.steps={STEPS}",
    f"{STAGE}.batch=24",
    f"{STAGE}.flip=false",
    f"{STAGE}.validate_every=null",
    "evaluate.looking=[]",
    "evaluate.leaks=false",
    f"evaluate.robust={{questions: {QUESTIONS}, batch: 100, words: [], contradiction: [], corruptions: []}}",
    f"evaluate.robust.attacks=[{{kind: pgd, epsilon: [{', '.join(f'{bound}/255' for bound in BOUNDS)}], steps: 10}}]",
)
ATTACK = "epsilon: 4/255, steps: 2"
ARMS: dict[str, tuple[str, str | None]] = {  # name -> what it is, and the stage's `adversarial`
    "plain": ("clean pictures", None),
    "pgd": ("attacked pictures in place of clean ones", f"{{kind: pgd, {ATTACK}}}"),
    "trades": ("clean pictures, and beta 3 times the divergence", f"{{kind: trades, {ATTACK}, beta: 3}}"),
}


def recipe_of(arm: str, seed: int) -> Recipe:
    """The arm's recipe: the quickstart's first stage alone."""
    adversarial = ARMS[arm][1]
    overrides = [*SET_UP, f"seed={seed}", "device=cpu", "precision=fp32"]
    overrides += [f"{STAGE}.adversarial={adversarial}"] if adversarial else []
    recipe = load("quickstart", overrides)
    return recipe.model_copy(update={"stages": recipe.stages[:1], "name": f"adversarial-{arm}-{seed}"})


def run(arm: str, seed: int, work: Path) -> dict[str, Any]:
    """Train and attack one run, or read what it found before."""
    folder = work / f"{arm.replace(', ', '-')}-{seed}"
    result = folder / FILE
    if not result.is_file():
        recipe, start = recipe_of(arm, seed), time.process_time()
        train(recipe, folder)
        seconds = time.process_time() - start
        rows = read_rows(recipe.data["test"], "test").rows
        measure(recipe, load_run(folder), rows, folder)
        write_report(folder)
        (folder / "cost.json").write_text(json.dumps({"train_seconds": seconds}))
    found: dict[str, Any] = json.loads(result.read_text())
    return found | json.loads((folder / "cost.json").read_text())


def told(values: list[float]) -> str:
    """Mean and range, in percent."""
    return f"{100 * statistics.mean(values):.1f} ({100 * min(values):.0f} to {100 * max(values):.0f})"


def page(found: dict[str, list[dict[str, Any]]]) -> str:
    """adversarial.md."""
    columns = [f"{bound}/255" for bound in BOUNDS]
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    lines = [
        "# Adversarial training",
        "",
        f"Written by `python benchmarks/adversarial.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.system()} "
        f"{platform.machine()}, torch {torch.__version__}, one thread).",
        "",
        about.replace("STEPS", str(STEPS)).replace("QUESTIONS", str(QUESTIONS)),
        "",
        f"Right answers in percent: mean over seeds (lowest to highest). Arms train with {ATTACK}.",
        "",
        f"| arm | | seeds | clean | {' | '.join(columns)} | training, s |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for arm, runs in found.items():
        points = [[run["attacks"][0]["points"][place]["accuracy"] for run in runs] for place in range(len(BOUNDS))]
        cells = [told(each) for each in points]
        clean = told([run["clean"]["accuracy"] for run in runs])
        seconds = statistics.mean(run["train_seconds"] for run in runs)
        lines.append(f"| {arm} | {ARMS[arm][0]} | {len(runs)} | {clean} | {' | '.join(cells)} | {seconds:.0f} |")
    failed = [
        f"- {arm}, seed {run['seed']}: {check['attack']}, {check['check']}: {check['says']}"
        for arm, runs in found.items()
        for run in runs
        for check in run["checks"]
        if check["passed"] is False
    ]
    total = sum(check["passed"] is not None for runs in found.values() for run in runs for check in run["checks"])
    lines += ["", f"Of {total} checks of the attacks {len(failed)} failed{':' if failed else '.'}", *failed]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/adversarial"))
    parser.add_argument("--only", nargs="*", choices=list(ARMS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        for arm in options.only or ARMS:
            found.setdefault(arm, []).append(run(arm, seed, options.work))
            print(arm, seed, told([found[arm][-1]["clean"]["accuracy"]]), flush=True)
            PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
