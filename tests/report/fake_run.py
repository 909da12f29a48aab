"""Run directories made by formula: what a run of the quickstart's shape leaves behind, whole or in pieces."""

from __future__ import annotations

import base64
import colorsys
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.report.robust_run import poisoned, robustness

STAGES = (
    ("see", 300, {"vision": 1e-3, "connector": 1e-3, "language": 1e-3}, ("vision", "connector", "language")),
    ("align", 120, {"connector": 5e-4}, ("connector",)),
    ("instruct", 480, {"connector": 2e-4, "language": 5e-5}, ("connector", "language")),
)
PARAMETERS = {"vision": 812_416, "connector": 99_072, "language": 734_336}
KINDS = {
    "yes or no": (7136, 0.986, 0.612, 0.741),
    "color": (1271, 0.991, 0.183, 0.207),
    "shape": (1266, 0.957, 0.334, 0.371),
}
CHECKS = (
    ("X1", "image-tokens-without-features", "A prompt has image placeholders, but no picture reaches the model."),
    ("X4", "truncated-image-tokens", "Image placeholders are cut off by truncation."),
    ("L2", "unmasked-labels", "The prompt, or padding, is trained on as if it were an answer."),
    ("L4", "packing-leaks-attention", "Documents packed into one row see each other."),
    ("T2", "frozen-parameters-in-optimizer", "A parameter that should learn is frozen, or the reverse."),
    ("P1", "wrong-accumulation-mean", "Gradient accumulation divides by micro-batches, not by tokens."),
    ("K1", "checkpoint-does-not-restore", "What was saved is not what is loaded."),
)
RECIPE = """name: quickstart
summary: A small vision-language model, trained from nothing on drawn shapes.
model:
  compose:
    vision: {config: {model_type: siglip_vision_model, hidden_size: 128, num_hidden_layers: 4}}
    connector: {kind: mlp}
    language: {config: {model_type: llama, hidden_size: 128, num_hidden_layers: 3}}
stages:
  - name: see
    steps: 300
    learn: {vision: all, connector: all, language: all}
    lr: 0.001
seed: 0
"""


def thumbnail(seed: int) -> str:
    """A drawn shape as a PNG data URI."""
    draw = random.Random(seed)
    red, green, blue = colorsys.hsv_to_rgb(draw.random(), 0.75, 0.85)
    image = Image.new("RGB", (64, 64), tuple(230 + draw.randrange(20) for _ in range(3)))
    x, y, size = draw.randrange(4, 24), draw.randrange(4, 24), draw.randrange(18, 34)
    shape = getattr(ImageDraw.Draw(image), ("ellipse", "rectangle")[seed % 2])
    shape((x, y, x + size, y + size), fill=(int(255 * red), int(255 * green), int(255 * blue)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def rate(peak: float, step: int, steps: int) -> float:
    """Warm-up over 5 %, then a cosine to 0."""
    warm = max(1, steps // 20)
    return peak * step / warm if step < warm else peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def metrics(*, every: int = 3, scale: int = 1, until: int | None = None, fp16: bool = False) -> list[dict[str, Any]]:
    """Lines of `metrics.jsonl`; `scale` makes every stage longer, `until` ends the run at a global step."""
    noise, lines, done = random.Random(7), [], 0
    for name, planned, peaks, learning in STAGES:
        steps = planned * scale
        for step in range(every, steps + 1, every):
            now = done + step
            if until is not None and now > until:
                return lines
            seconds = 6 + now * 0.28 / scale
            base = 0.06 + 2.6 * math.exp(-now / (90 * scale)) + (0.12 if name == "align" else 0)
            wobble = {tower: math.exp(noise.gauss(0, 0.25)) for tower in learning}
            lr = {tower: rate(peak, step, steps) for tower, peak in peaks.items()}
            speed = 230 + noise.gauss(0, 9) + (160 if name == "align" else 0)
            lines.append(
                {
                    "event": "train", "stage": name, "step": step, "global_step": now,
                    "loss": base * math.exp(noise.gauss(0, 0.13)), "tokens": 640 + noise.randrange(-40, 40), "lr": lr,
                    "grad_norm": {t: (0.2 + base / 3) * wobble[t] for t in learning},
                    "grad_norm_total": 0.4 + base / 2,
                    "update_ratio": {t: 1.3 * lr[t] * wobble[t] + 2e-5 for t in learning},
                    "images_per_s": speed, "tokens_per_s": speed * 41, "sequences_per_s": speed,
                    "loss_scale": 65536.0 / (1 + (now > 200)) if fp16 else None, "seconds": seconds,
                }
            )  # fmt: skip
            if step % (60 * scale) < every:
                lines.append(
                    {
                        "event": "validation",
                        "stage": name,
                        "step": step,
                        "global_step": now,
                        "loss": base * 1.08 + 0.01,
                        "tokens": 4000,
                    }
                )
        done += steps
        lines.append(
            {
                "event": "checkpoint",
                "stage": name,
                "step": steps,
                "global_step": done,
                "path": f"checkpoints/{name}-{steps}",
            }
        )
    return lines


def stage_facts() -> list[dict[str, Any]]:
    made = []
    for name, steps, peaks, learning in STAGES:
        trainable = {tower: count if tower in learning else 0 for tower, count in PARAMETERS.items()}
        learned = sum(trainable.values())
        made.append(
            {
                "name": name, "steps": steps, "lr": peaks, "trainable": trainable,
                "learn": {t: "all" if t in learning else "none" for t in PARAMETERS},
                "frozen": {tower: PARAMETERS[tower] - count for tower, count in trainable.items()},
                "peak_memory_bytes": 60_000_000 + 18 * learned,
                "estimated_memory_bytes": {"weights": 6_583_296, "gradients": 4 * learned, "optimizer": 8 * learned},
                "seconds": steps * 0.28, "best_validation": 0.07, "ended": "finished",
            }
        )  # fmt: skip
    return made


def run_facts() -> dict[str, Any]:
    return {
        "name": "quickstart", "started": "2025-11-20T23:10:00+00:00", "finished": "2025-11-20T23:14:41+00:00",
        "status": "finished", "error": None, "seed": 0, "precision": "bf16", "device": "cpu", "world_size": 1,
        "versions": {"sightline": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
        "machine": {"cpu": "Ryzen 7 7840U", "cores": 2, "memory_gib": 24.0, "gpu": [], "platform": "Linux 6.8 x86_64"},
        "towers": {
            "vision": {"parameters": 812_416, "bytes": 3_249_664, "description": "siglip_vision_model, 4 layers"},
            "connector": {"parameters": 99_072, "bytes": 396_288, "description": "2-layer MLP, 128 to 128"},
            "language": {"parameters": 734_336, "bytes": 2_937_344, "description": "llama, 3 layers, width 128"},
        },
        "stages": stage_facts(), "skipped_count": 0, "skipped_rows": [],
        "time": {"setup": 4.1, "data": 6.3, "step": 221.0, "validation": 9.0, "checkpoint": 1.2, "evaluation": 24.0},
        "export": {"folder": "model", "how_to_load": "LlavaForConditionalGeneration.from_pretrained('model')"},
    }  # fmt: skip


def check_lines() -> list[dict[str, Any]]:
    passed = [{"kind": "passed", "code": c, "check": n, "claim": t, "times": 300} for c, n, t in CHECKS]
    blind = {"kind": "not-run", "code": "T5", "check": "unsynchronised-ranks", "why": "one process: nothing to compare"}
    return [*passed, blind]


def condition(accuracy: float, right: float = 0.981, half: float = 0.01) -> dict[str, Any]:
    """One condition or baseline of `evaluation.json`, beside the right pictures."""
    ends, loss = [max(0.0, accuracy - half), min(1.0, accuracy + half)], right - accuracy
    return {
        "accuracy": accuracy,
        "interval": ends,
        "difference": loss,
        "difference_interval": [loss - half, loss + half],
    }


def looking(says: str = "looks", right: float = 0.981) -> dict[str, Any]:
    """Whether it looks, as `evaluation.json` tells it."""
    shares = {"blind": 0.363, "shuffled": 0.521, "blurred": 0.74, "noise": 0.464}
    if says != "looks":
        shares = dict.fromkeys(shares, right - 0.002)
    told = {"p": 1e-20, "changed": 0.4, "description": "every picture exchanged for another one"}
    pairs = {
        "pairs": 2509, "both_right": 0.957, "interval": [0.948, 0.964], "if_independent": 0.961, "same_answer": 0.033,
        "both_right_when": {"blind": 0.0, "shuffled": 0.1, "blurred": 0.3}, "description": "both right",
    }  # fmt: skip
    if says != "looks":
        pairs |= {"both_right": 0.004, "interval": [0.002, 0.008], "if_independent": 0.25, "same_answer": 0.99}
    return {
        "verdict": {"says": says, "why": "the right image adds +46.0 points (+44.9 to +47.1)"},
        "rule": "It looks where", "questions": 9673, "of": 9673,
        "images": 1000, "accuracy": right, "partial": False, "counterfactual": pairs,
        "conditions": {name: condition(share, right) | told for name, share in shares.items()},
    }  # fmt: skip


def leaks(found: int = 0) -> dict[str, Any]:
    """The leak check, with `found` near duplicates."""
    one = {
        "kind": "near duplicate", "bits": 12, "questions": 9, "evaluation": {"row": "test row 3", "image": "a/3.jpg"},
        "training": {"row": "train row 41", "image": "b/41.jpg"},
    }  # fmt: skip
    return {
        "training_images": 3800, "evaluation_images": 1000, "found": found, "questions": 9 * found, "unreadable": 0,
        "kinds": {"near duplicate": found} if found else {}, "listed": [one] * min(found, 100), "flat": 0,
        "not_compared": [], "rule": "An image counts as trained on where", "partial": False,
        **({"accuracy_without": {"accuracy": 0.612, "interval": [0.6, 0.624]}} if found else {}),
    }  # fmt: skip


def evaluation() -> dict[str, Any]:
    groups = {
        kind: {
            "questions": n, "accuracy": a, "shuffled": s, "text_only": t, "interval": [a - 0.02, min(1.0, a + 0.02)],
            "looking": {"verdict": {"says": "looks"}},
        }
        for kind, (n, a, s, t) in KINDS.items()
    }  # fmt: skip
    return {
        "data": "test", "metric": "exact-match", "questions": 9673, "accuracy": 0.981, "interval": [0.9781, 0.9836],
        "by_group": groups, "by_field": {"type": groups}, "seconds": 24.0, "partial": False, "rule": None,
        "baselines": {
            "text_only": condition(0.678) | {"description": "the majority training answer of each question"},
            "shuffled_images": condition(0.521) | {"description": "the same questions with other pictures"},
            "majority": condition(0.284) | {"answer": "no", "description": "the most frequent training answer"},
        },
        "looking": looking(), "leaks": leaks(),
    }  # fmt: skip


def answers() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(predictions.jsonl, gallery.json): every seventh is wrong, one mistake more frequent than the others."""
    asked = ("what shape is present?", "is there a red circle in the image?", "what color is the rectangle?")
    right = ("rectangle", "no", "teal")
    wrong = ("circle", "yes", "blue")
    gallery, predictions = [], []
    for place in range(24):
        kind, correct = place % 3, place % 7 != 3
        given = right[kind] if correct else wrong[kind]
        seen = {"question": asked[kind], "answer": given, "truth": right[kind], "correct": correct}
        gallery.append({**seen, "thumbnail": thumbnail(place)})
        predictions.append({**seen, "where": f"test row {place}", "group": tuple(KINDS)[kind], "image_key": str(place)})
    predictions += [{**predictions[3], "where": f"test row {place}"} for place in range(24, 36)]
    return predictions, gallery


def make_run(folder: Path, **changes: Any) -> Path:
    """A finished run. `facts` updates run.json; the others replace a file's content; None leaves the file out."""
    folder.mkdir(parents=True)
    predictions, gallery = answers()
    parts = {
        "metrics": metrics(), "findings": check_lines(), "evaluation": evaluation(), "predictions": predictions,
        "gallery": gallery, "recipe": RECIPE, "facts": {},
    } | changes  # fmt: skip
    if parts["facts"] is not None:
        write_json(folder / "run.json", run_facts() | parts["facts"])
    for name in ("metrics", "findings", "predictions"):
        if parts[name] is not None:
            write_lines(folder / f"{name}.jsonl", parts[name])
    for name in ("evaluation", "gallery"):
        if parts[name] is not None:
            write_json(folder / f"{name}.json", parts[name])
    if parts["recipe"] is not None:
        (folder / "recipe.yaml").write_text(parts["recipe"], encoding="utf-8")
    return folder


NO_RESULT: dict[str, Any] = {"evaluation": None, "predictions": None, "gallery": None}


def interrupted(folder: Path) -> Path:
    """Stopped by a signal after three steps."""
    cut = {
        "status": "interrupted",
        "finished": "2025-11-20T23:10:08+00:00",
        "export": {},
        "time": {"setup": 4.0, "step": 1.1},
    }
    cut["stages"] = [stage_facts()[0] | {"ended": "interrupted", "seconds": 1.1, "best_validation": None}]
    return make_run(folder, facts=cut, metrics=metrics(every=1, until=3), **NO_RESULT)


def with_findings(folder: Path) -> Path:
    """A run that does not look at its pictures and in which the guard found three faults and was told to allow one."""
    seen = {"supervised": 5120, "inside_prompt": 3904, "share": 0.7625}
    found = [
        {
            "kind": "finding", "check": "unmasked-labels", "code": "L2", "severity": "error", "step": 0,
            "evidence": seen,            "message": "3,904 of 5,120 supervised tokens lie inside the prompt.",
            "fix": "set labels to -100 up to the answer",
        },
        {
            "kind": "finding", "check": "language-prior-answers", "code": "X6", "severity": "warning", "step": 120,
            "message": "Shuffling the pictures changes 0.4 % of the answers.",
            "fix": "raise stages.align.lr.connector from 1e-6 to 1e-3",
            "evidence": {"changed": 0.004},
        },
    ]  # fmt: skip
    again = [found[1] | {"step": step} for step in range(140, 200, 20)]
    allowed = {"kind": "allowed", "check": "unused-parameters", "code": "T3", "reason": "the last block is not read",
               "message": "12 parameters never get a gradient."}  # fmt: skip
    blind = evaluation() | {"accuracy": 0.5304, "interval": [0.5204, 0.5403]}
    blind["looking"] = looking("does not look", 0.5304)
    for group in blind["by_group"].values():
        group["accuracy"] = group["shuffled"] + 0.009
    return make_run(folder, findings=[*found, *again, allowed, *check_lines()[3:]], evaluation=blind)


def leaky(folder: Path) -> Path:
    """Scored by a VQA rule, broken down by two fields, and a part of its test pictures was trained on."""
    score = evaluation() | {"metric": "vqa", "rule": "official", "accuracy": 0.634, "interval": [0.628, 0.64]}
    kinds = [f"what is the {thing}" for thing in ("color", "man", "name", "time", "woman", "dog", "sport", "brand")] * 3
    many = {
        f"{kind} {place}": {"questions": 40 + place, "accuracy": 0.3 + place / 50, "interval": [0.2, 0.95]}
        | {"shuffled": 0.3, "text_only": 0.35, "looking": {"verdict": {"says": "cannot tell"}}}
        for place, kind in enumerate(kinds)
    }
    score["by_field"] = {"answer_type": score["by_group"], "question_type": many}
    score |= {"looking": looking("cannot tell", 0.634) | {"questions": 5000}, "leaks": leaks(130), "partial": True}
    return make_run(folder, evaluation=score)


def failed(folder: Path) -> Path:
    """Crashed in the second stage, its metrics cut in the middle of a line."""
    trace = 'Traceback (most recent call last):\n  File "step.py", line 41, in step\nRuntimeError: out of memory'
    cut = {"status": "failed", "error": trace, "skipped_count": 3, "stages": stage_facts()[:2]}
    cut["skipped_rows"] = [{"where": f"train.json row {row}", "reason": "truncated JPEG"} for row in (7, 19)]
    made = make_run(folder, facts=cut, metrics=metrics(until=366, fp16=True), **NO_RESULT)
    with (made / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "stage": "align", "st')
    return made


HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">{{7*7}}\u2028\ud800&<b>'


def hostile(folder: Path) -> Path:
    """Every text in every file tries to leave its place in the page."""
    stages = [stage | {"name": HOSTILE, "ended": HOSTILE} for stage in stage_facts()]
    facts = {"name": HOSTILE, "status": HOSTILE, "error": HOSTILE, "machine": {HOSTILE: HOSTILE}, "stages": stages,
             "skipped_rows": [{"where": HOSTILE, "reason": HOSTILE}], "towers": {HOSTILE: {"description": HOSTILE}},
             "export": {"folder": HOSTILE, "how_to_load": HOSTILE}}  # fmt: skip
    lines = [line | {"stage": HOSTILE + str(place > 50)} for place, line in enumerate(metrics(every=9))]
    lines = [line | {"grad_norm": {HOSTILE: 1.0}, "update_ratio": {HOSTILE: 1e-3}} for line in lines]
    kinds = ("grad_norm", "weight_norm", "update_ratio", "attention_entropy", "dead_units")
    seen = {kind: {HOSTILE + ".0": 0.5, HOSTILE + ".1": 0.0, HOSTILE: HOSTILE} for kind in kinds}
    lines += [{"event": "layers", "stage": HOSTILE, "step": n, "global_step": n} | seen for n in (9, 90)]
    said = dict.fromkeys(("check", "code", "message", "fix", "severity", "claim", "why", "reason"), HOSTILE)
    findings = [
        {"kind": kind, **said, "evidence": {HOSTILE: HOSTILE}} for kind in ("finding", "passed", "not-run", "allowed")
    ]
    asked = {"question": HOSTILE, "answer": HOSTILE, "truth": HOSTILE, "correct": False}
    gallery = [
        asked | {"thumbnail": source} for source in ("https://example.org/x.png", "data:image/svg+xml,<svg/>", HOSTILE)
    ]
    score = evaluation() | {"data": HOSTILE, "metric": HOSTILE, "by_group": {HOSTILE: {"accuracy": 0.5}}}
    score["baselines"]["majority"]["answer"] = HOSTILE
    score["by_field"] = {HOSTILE: score["by_group"], HOSTILE * 2: score["by_group"]}
    score["looking"]["verdict"]["why"] = score["looking"]["rule"] = HOSTILE
    score["looking"]["conditions"]["blind"]["description"] = HOSTILE
    places = {"row": HOSTILE, "image": HOSTILE}
    leak = {"kind": HOSTILE, "evaluation": places, "training": places}
    score["leaks"] = leaks(1) | {"listed": [leak], "kinds": {HOSTILE: 1}, "rule": HOSTILE, "not_compared": [HOSTILE]}
    made = make_run(
        folder, facts=facts, metrics=lines, findings=findings, gallery=gallery, predictions=[asked],
        evaluation=score, recipe=HOSTILE.replace("\ud800", ""),
    )  # fmt: skip
    write_json(made / "robustness.json", poisoned(HOSTILE))
    return made


def huge(folder: Path) -> Path:
    """20,000 logged steps with one spike that thinning must keep."""
    lines = metrics(every=1, scale=23)
    spike = [line for line in lines if line["event"] == "train"][12_345]
    spike["loss"] = 987.0
    return make_run(folder, metrics=lines)


def bare(folder: Path) -> Path:
    """Killed before anything but the recipe was written."""
    return make_run(folder, facts=None, metrics=None, findings=None, **NO_RESULT)


def recall(queries: int, first: float, among_10: float) -> dict[str, Any]:
    """One direction of `evaluation.json`, 24 right answers in 880 by chance."""
    shares = {"1": first, "5": (first + among_10) / 2, "10": among_10}
    ends = {k: [max(0.0, share - 0.01), min(1.0, share + 0.01)] for k, share in shares.items()}
    chance = {"1": 0.043, "5": 0.196, "10": 0.354}
    return {
        "queries": queries, "candidates": 880, "recall": shares, "interval": ends, "chance": chance, "median_rank": 2.0,
    }  # fmt: skip


def pairs(first: float = 0.731) -> dict[str, Any]:
    """`evaluation.json` of a model over pairs with every head."""
    return {
        "data": "captions-test", "metric": "retrieval", "questions": 880, "partial": False, "images": 870, "rerank": 16,
        "image_to_text": recall(870, first, 0.93), "text_to_image": recall(880, first + 0.05, 0.95), "seconds": 9.0,
        "matching": {
            "right_pairs": {"accuracy": 0.962, "interval": [0.947, 0.973]},
            "hardest_wrong_pairs": {"accuracy": 0.814, "interval": [0.787, 0.838]}, "accuracy": 0.888, "chance": 0.5,
        },
        "caption_nats_per_token": {"own_image": 0.412, "hardest_wrong_image": 1.37},
    }  # fmt: skip


def retrieval(folder: Path) -> Path:
    """Three losses over pairs, judged by retrieval, and once more after the first stage."""
    lines = metrics()
    for line in lines:
        if line["event"] == "train" and line["stage"] == STAGES[0][0]:
            line["terms"] = {"itc": line["loss"] * 0.6, "itm": line["loss"] * 0.1, "itg": line["loss"] * 0.3}
    made = make_run(folder, metrics=lines, **(NO_RESULT | {"evaluation": pairs()}))
    (made / "after-see").mkdir()
    write_json(made / "after-see" / "evaluation.json", pairs(first=0.05))
    return made


def robust(folder: Path) -> Path:
    """Attacked, corrupted, reworded and lied to, too; as a model that hides its gradients looks."""
    made = make_run(folder)
    write_json(made / "robustness.json", robustness(answers()[1][0]["thumbnail"], masked=True))
    return made


VARIANTS: dict[str, Callable[[Path], Path]] = {
    "finished": make_run, "interrupted": interrupted, "findings": with_findings, "failed": failed, "hostile": hostile,
    "huge": huge, "bare": bare, "retrieval": retrieval, "leaky": leaky,
    "robust": robust,
}  # fmt: skip
