"""An evaluation in a few lines: the accuracy beside what it would be without looking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BASELINES = {"text_only": "most frequent answer to the same words", "majority": "one answer for all"}
CONDITIONS = {
    "shuffled": "with other images",
    "blurred": "with blurred images",
    "noise": "with noise for images",
    "blind": "without the image",
}
VERDICTS = {"looks": "it looks", "does not look": "it does not look", "cannot tell": "that cannot be told"}
SCORES = {"exact-match": "accuracy", "vqa": "VQA accuracy"}

MOST_CLASSES = 12  # that are told one by one


def evaluation_lines(run: Path) -> list[str]:
    """The lines for each `evaluation.json` of `run`: those after a stage in the order they were made, then the last."""
    told: list[str] = []
    for path in sorted(run.glob("after-*/evaluation.json"), key=lambda path: path.stat().st_mtime):
        told += [f"{path.parent.name.replace('-', ' ', 1)}:", *_read(path)]
    last = run / "evaluation.json"
    return told + (_read(last) if last.is_file() else [])


def left_out_lines(run: Path) -> list[str]:
    """How many rows `run` left out, and the first of them; nothing where there are none."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if not facts.get("skipped_count"):
        return []
    first = facts["skipped_rows"][0]
    return [
        f"left out: {facts['skipped_count']:,} rows, listed in run.json; the first: {first['where']}: {first['reason']}"
    ]


def augmented_lines(run: Path) -> list[str]:
    """How many rows each stage of `run` left as they are where it changed images; nothing where none did."""
    stages = json.loads((run / "run.json").read_text(encoding="utf-8")).get("stages", [])
    return [exempt_line(stage["name"], stage["augment"]) for stage in stages if stage.get("augment")]


def exempt_line(stage: str, facts: dict[str, int]) -> str:
    """What `Augmenter.facts` says, in words."""
    words = {"flip": "are never mirrored", "colour": "keep their colours", "crop": "are never cropped"}
    told = [f"{facts[change]:,} {said}" for change, said in words.items() if change in facts]
    return f"{stage}: images are changed where answers stay true; of {facts['rows']:,} rows, {', '.join(told)}"


def _read(path: Path) -> list[str]:
    return describe(json.loads(path.read_text(encoding="utf-8")))


def describe(evaluation: dict[str, Any]) -> list[str]:
    """Headline, baselines and groups of an evaluation."""
    asked = f"{evaluation['questions']:,} questions" + (" (not all of them)" if evaluation["partial"] else "")
    if evaluation["metric"] == "retrieval":
        lines = _retrieval(evaluation)
    elif evaluation["metric"] == "zero-shot":
        lines = _zero_shot(evaluation)
    elif evaluation["metric"] == "perplexity":
        lines = _perplexity(evaluation)
    elif "accuracy" not in evaluation:
        lines = [f"answered {asked} of {evaluation['data']}; the recipe scores nothing (evaluate.metric)"]
    else:
        lines = _answers(evaluation, asked)
    return lines + _leaks(evaluation.get("leaks", {}))


def _answers(evaluation: dict[str, Any], asked: str) -> list[str]:
    """The score of answers, what it is measured against, and whether the model looks."""
    low, high = evaluation["interval"]
    rule = f", {evaluation['rule']} rule" if evaluation.get("rule") else ""
    lines = [
        f"{SCORES.get(evaluation['metric'], 'accuracy')}{rule}: {percent(evaluation['accuracy'])} on {asked} of "
        f"{evaluation['data']} (95 % interval {percent(low)} to {percent(high)})"
    ]
    looking = evaluation.get("looking", {})
    for table, found in ((CONDITIONS, looking.get("conditions", {})), (BASELINES, evaluation["baselines"])):
        for name, words in table.items():
            if (facts := found.get(name)) and facts["accuracy"] is not None:
                lines.append(f"  {words}: {percent(facts['accuracy'])}")
    for field, groups in evaluation.get("by_field", {"group": evaluation["by_group"]}).items():
        told = [f"{name} {percent(group['accuracy'])}" for name, group in groups.items()]
        more = f", and {len(told) - MOST_CLASSES} more" if len(told) > MOST_CLASSES else ""
        lines += [f"  by {field.replace('_', ' ')}: {', '.join(told[:MOST_CLASSES])}{more}"] if told else []
    return lines + _sure(evaluation) + _looking(looking)


def _sure(evaluation: dict[str, Any]) -> list[str]:
    """How well the model knows when it is right, and what its vocabulary lets it reach."""
    lines = []
    if seen := evaluation.get("vocabulary"):
        missing = f"{seen['out_of_reach']:,} questions have none that is right"
        lines.append(f"  chosen from {seen['answers']:,} answers; {missing}: at best {percent(seen['ceiling'])}")
    if seen := evaluation.get("calibration"):
        low, high = seen["interval"]
        lines.append(
            f"  how sure? {percent(seen['confidence'])} on average; calibration error (ECE) {percent(seen['ece'])} "
            f"(95 % interval {percent(low)} to {percent(high)}; {percent(seen['expected_by_chance'])} by chance)"
        )
    return lines


def _looking(looking: dict[str, Any]) -> list[str]:
    """Whether the model looks, and what that rests on."""
    if not looking:
        return []
    few = f" ({looking['questions']:,} were asked again)" if looking["questions"] < looking["of"] else ""
    lines = [f"  does it look? {VERDICTS[looking['verdict']['says']]}: {looking['verdict']['why']}{few}"]
    if (pairs := looking["counterfactual"])["pairs"]:
        lines.append(
            f"  the same question about two images that need different answers: both right in "
            f"{percent(pairs['both_right'])} of {pairs['pairs']:,} pairs (the same answer to both in "
            f"{percent(pairs['same_answer'])}; {percent(pairs['if_independent'])} were each judged by itself)"
        )
    return lines


def _leaks(leaks: dict[str, Any]) -> list[str]:
    """Evaluation images that were trained on, loudly; or that there are none, of how many."""
    if not leaks:
        return []
    unread = f"; {leaks['unreadable']:,} could not be read" if leaks["unreadable"] else ""
    unread += f"; not compared, as they are streamed: {', '.join(names)}" if (names := leaks["not_compared"]) else ""
    if not leaks["found"]:
        compared = f"{leaks['evaluation_images']:,} compared with {leaks['training_images']:,} training images"
        return [f"  leaks: none found, {compared}{unread}"] if leaks["training_images"] else []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in leaks["kinds"].items())
    first = leaks["listed"][0]
    places = " = ".join(f"{first[side]['row']} ({first[side]['image']})" for side in ("evaluation", "training"))
    without = leaks.get("accuracy_without")
    rest = f"; on the other questions {percent(without['accuracy'])}" if without else ""
    return [
        f"  LEAK: {leaks['found']:,} of {leaks['evaluation_images']:,} evaluation images were also trained on "
        f"({kinds}); {leaks['questions']:,} questions are about them{rest}{unread}",
        f"    {places}: {first['kind']}; all are in leaks.jsonl",
    ]


def _retrieval(evaluation: dict[str, Any]) -> list[str]:
    part = " (not all of them)" if evaluation["partial"] else ""
    lines = [f"retrieval on {evaluation['images']:,} images and {evaluation['questions']:,} texts{part}:"]
    for name, words in (("image_to_text", "texts of an image"), ("text_to_image", "image of a text")):
        facts = evaluation[name]
        found = ", ".join(f"first {k}: {percent(v)}" for k, v in facts["recall"].items())
        lines.append(f"  {words}: {found} (by chance {percent(facts['chance']['1'])} first)")
    if matching := evaluation.get("matching"):
        lines.append(f"  matching, right and hardest wrong pairs: {percent(matching['accuracy'])} (by chance 50.0 %)")
    if nats := evaluation.get("caption_nats_per_token"):
        own, wrong = nats["own_image"], nats["hardest_wrong_image"]
        lines.append(f"  captions: {own:.3f} nats a token with their image, {wrong:.3f} with the nearest wrong one")
    return lines


def _perplexity(evaluation: dict[str, Any]) -> list[str]:
    """Perplexity beside that of the same words with other images, and by field."""
    count, unit = evaluation["questions"], evaluation["unit"]
    told = f"{count:,} {unit if count != 1 else unit[:-1]}" + (" (not all of them)" if evaluation["partial"] else "")
    interval = "no interval from a single one"
    if evaluation["interval"]:
        interval = "95 % interval {:.3f} to {:.3f}".format(*evaluation["interval"])
    lines = [
        f"perplexity {evaluation['perplexity']:.3f} ({evaluation['nats']:.4f} nats a token) over "
        f"{evaluation['tokens']:,} tokens of {told} of {evaluation['data']} ({interval})"
    ]
    if other := evaluation["baselines"].get("shuffled_images"):
        lines.append(f"  with other images: {other['perplexity']:.3f}")
    for field, groups in evaluation["by_field"].items():
        shown = [f"{name} {group['perplexity']:.3f}" for name, group in groups.items()][:MOST_CLASSES]
        more = f", and {len(groups) - len(shown)} more" if len(groups) > len(shown) else ""
        lines.append(f"  by {field.replace('_', ' ')}: {', '.join(shown)}{more}")
    return lines


def _zero_shot(evaluation: dict[str, Any]) -> list[str]:
    part, (low, high) = " (not all of them)" if evaluation["partial"] else "", evaluation["interval"]
    lines = [
        f"zero-shot: {percent(evaluation['accuracy'])} of {evaluation['questions']:,} images of {evaluation['data']}"
        f"{part} in the right one of {len(evaluation['classes'])} classes "
        f"(95 % interval {percent(low)} to {percent(high)}; by chance {percent(evaluation['chance'])})"
    ]
    if among := evaluation.get("first_5"):
        lines.append(f"  among the first 5: {percent(among['accuracy'])} (by chance {percent(among['chance'])})")
    for name, words in (("shuffled_images", "with other images"), ("majority", "one class for all")):
        if facts := evaluation["baselines"].get(name):
            lines.append(f"  {words}: {percent(facts['accuracy'])}")
    groups = (f"{name} {percent(group['accuracy'])}" for name, group in evaluation["by_group"].items())
    if len(evaluation["by_group"]) <= MOST_CLASSES:
        lines.append(f"  by class: {', '.join(groups)}")
    return lines


def percent(share: float) -> str:
    """A share as a percentage with one digit; 100.0 % only where it is exactly that."""
    return f"{min(share * 100, 99.9) if share < 1 else 100.0:.1f} %"
