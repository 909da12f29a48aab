"""`sightline score`: predictions in files against the truth in files, without a model and without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sightline.evaluate.vqa import VqaScore

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score a file of predictions against the truth.")

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON")]
Partial = Annotated[bool, typer.Option("--partial", help="Score what all files share, and say that it is partial")]


class VqaRule(StrEnum):
    """The names of `sightline.evaluate.vqa.RULES`."""

    official = "official"
    lavis = "lavis"
    lmms_eval = "lmms-eval"


class WithoutIds(StrEnum):
    """What to do with answers that no id tells apart."""

    refuse = "refuse"
    number = "number"
    merge = "merge"


@app.command()
def vqa(
    annotations: Annotated[Path, typer.Option(help="What people answered (VQAv2, OK-VQA, TextVQA, VizWiz JSON)")],
    predictions: Annotated[Path, typer.Option(help='A list of {"question_id": 1, "answer": "yes"}')],
    questions: Annotated[Path | None, typer.Option(help="The questions that were asked")] = None,
    rule: Annotated[VqaRule, typer.Option(help="Whose VQA accuracy")] = VqaRule.official,
    as_json: AsJson = False,
    partial: Partial = False,
    without_ids: Annotated[
        WithoutIds, typer.Option(help="Answers without ids (VizWiz): each counts, or equal ones are one")
    ] = WithoutIds.refuse,
    per_question: Annotated[bool, typer.Option("--per-question", help="With --json: each question's, too")] = False,
) -> None:
    """VQA accuracy: overall, by answer type and by question type. Files are JSON, plain or gzipped."""
    from sightline.evaluate.vqa import score_vqa

    score = score_vqa(
        questions, annotations, predictions, rule=rule.value, partial=partial, without_ids=without_ids.value
    )
    if as_json:
        _print_json(score.facts() | ({"per_question": score.per_question} if per_question else {}))
    else:
        _print_vqa(score)


@app.command()
def perplexity(
    model: Annotated[str, typer.Option(help="A causal language model: a folder or a hub id")],
    text: Annotated[list[Path], typer.Option(help="A file of plain text, one document; or a folder of .txt files")],
    gguf_file: Annotated[str | None, typer.Option(help="A GGUF file in the model's folder")] = None,
    window: Annotated[int | None, typer.Option(min=2, help="Tokens read at once (the model's own, up to 2048)")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="How far the next window starts behind (half)")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a forward pass")] = 8,
    as_json: AsJson = False,
) -> None:
    """Perplexity of texts over all their tokens, each scored once, in strided windows."""
    from sightline.commands import perplexity as command

    command.show(command.score(model, text, gguf_file, window, stride, batch), as_json=as_json)


class Tokenizer(StrEnum):
    """The names of `sightline.evaluate.captions.tokens.TOKENIZERS`."""

    words = "words"
    penn_treebank = "penn-treebank"


@app.command()
def captions(
    annotations: Annotated[Path, typer.Option(help="What people said of each image (COCO captions JSON)")],
    predictions: Annotated[Path, typer.Option(help='A list of {"image_id": 1, "caption": "a cat"}')],
    tokenizer: Annotated[
        Tokenizer, typer.Option(help="Ours, or the original (needs pycocoevalcap and Java)")
    ] = Tokenizer.words,
    meteor: Annotated[bool, typer.Option("--meteor", help="METEOR too (needs pycocoevalcap and Java)")] = False,
    as_json: AsJson = False,
    partial: Partial = False,
) -> None:
    """CIDEr, BLEU, ROUGE-L and METEOR of captions."""
    from sightline.evaluate.captions import score_captions

    score = score_captions(annotations, predictions, tokenizer=tokenizer.value, meteor=meteor, partial=partial)
    facts = score.facts()
    if as_json:
        _print_json(facts)
        return
    _print_partial(facts, f"{score.unanswered:,} images and {score.unknown:,} captions are left out")
    typer.echo(f"{len(score.images):,} images; tokenizer '{score.tokenizer}', {facts['definitions']}")
    rows = [(name, f"{value:.4f}", _span(score.intervals[name], 4)) for name, value in score.figures.items()]
    _print_table(("score", "value", "95 % interval"), rows)


@app.command()
def retrieval(
    similarity: Annotated[Path, typer.Option(help="A .npy file: images (rows) against texts (columns)")],
    matches: Annotated[
        Path | None, typer.Option(help="JSON: each image's texts, by number (default: as many for each, in order)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recall at 1, 5 and 10 of a matrix of similarities, both ways, beside chance."""
    from sightline.evaluate.recall import KS, score_retrieval

    facts = score_retrieval(similarity, matches)
    if as_json:
        _print_json(facts)
        return
    rows = [
        (
            f"{name.replace('_', ' ')}, first {k}",
            *(f"{part[each][str(k)]:.4f}" for each in ("recall", "chance")),
            _span(part["interval"][str(k)], 4),
        )
        for name, part in facts.items()
        if isinstance(part, dict)
        for k in KS
    ]
    queries = " and ".join(f"{facts[way]['queries']:,}" for way in ("image_to_text", "text_to_image"))
    typer.echo(f"{queries} images and texts; sum of the six recalls {facts['rsum']:.2f}")
    _print_table(("right among", "recall", "chance", "95 % interval"), rows)


class PopeRule(StrEnum):
    """The names of `sightline.evaluate.pope.RULES`."""

    official = "official"
    lmms_eval = "lmms-eval"


@app.command()
def pope(
    annotations: Annotated[
        list[Path], typer.Option(help="A file of POPE's questions and labels; give several in turn")
    ],
    predictions: Annotated[list[Path], typer.Option(help="The answers to each of them, in the same order")],
    rule: Annotated[PopeRule, typer.Option(help="Whose way to tell yes from no")] = PopeRule.official,
    as_json: AsJson = False,
) -> None:
    """Objects that are not there: accuracy, precision, recall, F1 and the share of yes, by category."""
    from sightline.evaluate.pope import FIGURES, score_pope

    facts = score_pope(annotations, predictions, rule=rule.value)
    if as_json:
        _print_json(facts)
        return
    typer.echo(f"POPE by the rule '{facts['rule']}': {facts['unclear']:,} answers are neither yes nor no")
    interval = _span(facts["intervals"]["accuracy"], 4)
    typer.echo(f"accuracy {facts['accuracy']:.4f}, 95 % interval {interval} (bootstrap over images)")
    rows = [
        (name, f"{part['questions']:,}", *("-" if part[each] is None else f"{part[each]:.4f}" for each in FIGURES))
        for name, part in [*facts["by_category"].items(), ("all", facts)]
    ]
    _print_table(("category", "questions", *(each.replace("_", " ") for each in FIGURES)), rows)


@app.command()
def calibration(
    predictions: Annotated[Path, typer.Option(help='A list of {"confidence": 0.9, "correct": true}')],
    bins: Annotated[int, typer.Option(min=1, help="Bins of equal width")] = 15,
    as_json: AsJson = False,
) -> None:
    """Expected calibration error, with its table of bins."""
    from sightline.evaluate.calibration import score_calibration

    facts = score_calibration(predictions, bins=bins).facts()
    if as_json:
        _print_json(facts)
        return
    typer.echo(f"expected calibration error {facts['ece']:.4f} over {facts['answers']:,} answers and {bins} bins")
    typer.echo(
        f"95 % interval {_span(facts['interval'], 4)}; {facts['expected_by_chance']:.4f} if every confidence were true"
    )
    typer.echo(
        f"accuracy {facts['accuracy']:.4f}, mean confidence {facts['confidence']:.4f}, Brier score {facts['brier']:.4f}"
    )
    rows = [
        (
            f"{part['low']:.2f} to {part['high']:.2f}",
            f"{part['answers']:,}",
            f"{part['confidence']:.4f}",
            f"{part['accuracy']:.4f}",
        )
        for part in facts["bins"]
        if part["answers"]
    ]
    _print_table(("confidence", "answers", "mean", "accuracy"), rows)


def _span(ends: Sequence[float], digits: int) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def _print_vqa(score: VqaScore) -> None:
    facts = score.facts()
    _print_partial(facts, f"{score.unanswered:,} questions and {score.unknown:,} predictions are left out")
    count = "1 question" if len(score.questions) == 1 else f"{len(score.questions):,} questions"
    typer.echo(f"VQA accuracy {score.overall:.2f} by the rule '{score.rule}' over {count}")
    if ends := facts["interval"]:
        typer.echo(f"95 % interval {_span(ends, 2)} (over {facts['interval_over']})")
    if score.without_ids:
        told = {
            "number": "each counts as a person's",
            "merge": "equal ones count as one, as in the codes of these rules",
        }
        typer.echo(f"answers have no ids to tell them apart: {told[score.without_ids]}")
    if score.capped:
        typer.echo(f"{score.capped:,} questions have fewer than 4 answers: no prediction is worth 100 there")
    for kind in score.types:
        rows = [(name, len(marks)) for name, marks in score.by_type(kind).items()]
        figures = score.per_answer_type if kind == "answer_type" else score.per_question_type
        _print_table(
            (kind.replace("_", " "), "questions", "accuracy"),
            [(name, f"{count:,}", f"{figures[name]:.2f}") for name, count in sorted(rows, key=lambda row: -row[1])],
        )


def _print_json(facts: dict[str, Any]) -> None:
    typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))


def _print_partial(facts: dict[str, Any], what: str) -> None:
    if facts["partial"]:
        typer.echo(f"PARTIAL: {what}")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of names and figures: `rich` would take as long to load as the rest takes to run."""
    widths = [max(len(line[place]) for line in [columns, *rows]) for place in range(len(columns))]
    typer.echo("")
    for line in [columns, *rows]:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        typer.echo("  ".join(cells))
