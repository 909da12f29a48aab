"""The result in words: does the model look at the picture, and did the guard find the run sound?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightline.report.format import SPACE, percent, plural
from sightline.report.looking import DOES_NOT, LOOKS, Looking
from sightline.report.retrieval import Retrieval
from sightline.report.values import Baseline, Evaluation, Guard, RunSeen

Tone = Literal["bad", "warn", "unknown", "good"]
WORST_FIRST: tuple[Tone, ...] = ("bad", "warn", "unknown", "good")


@dataclass(frozen=True, slots=True)
class Clause:
    """Half of the verdict: `short` for the one sentence, `long` with its numbers."""

    tone: Tone
    short: str
    long: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence, and what each half of it rests on."""

    sentence: str
    tone: Tone
    looks: Clause
    sound: Clause


def verdict(run: RunSeen) -> Verdict:
    """The verdict on a run. What was not measured is said to be unknown, never good."""
    retrieval = run.retrieval
    looks = tells_pairs_apart(retrieval) if retrieval else looks_at_the_picture(run.evaluation)
    sound = found_sound(run.guard, run.facts.status)
    tone = min(looks.tone, sound.tone, key=WORST_FIRST.index)
    joint = "but" if "good" in (looks.tone, sound.tone) and tone in ("bad", "warn") else "and"
    return Verdict(f"{looks.short}, {joint} {sound.short}.", tone, looks, sound)


def looks_at_the_picture(evaluation: Evaluation | None) -> Clause:
    """Judged by the lower end of the 95 % interval against what can be answered without the right picture."""
    unknown = "Whether the model looks at the picture is not known"
    if evaluation is None:
        return Clause("unknown", unknown, "This run has no scored answers.")
    if evaluation.looking is not None:
        return _by_the_rule(evaluation, evaluation.looking)
    shuffled, words = evaluation.baselines.get("shuffled_images"), evaluation.baselines.get("text_only")
    if shuffled is None and words is None:
        return Clause("unknown", unknown, "Neither shuffled images nor the text-only ceiling were measured.")
    low = evaluation.interval[0] if evaluation.interval else evaluation.accuracy
    numbers = _numbers(evaluation, shuffled, words)
    if shuffled is not None and low <= shuffled.accuracy:
        return Clause("bad", "The model does not look at the picture", f"Another picture serves it as well: {numbers}")
    if words is not None and low <= words.bar:
        more = "The right picture helps, yet it" if shuffled is not None else "It"
        short = "The model is no better than the words of the question alone"
        return Clause("bad", short, f"{more} does not get past the question's words: {numbers}")
    return Clause("good", "The model looks at the picture", f"The right picture makes the difference: {numbers}")


def _by_the_rule(evaluation: Evaluation, looking: Looking) -> Clause:
    """The evaluation's own verdict; where it looks, also whether that gets it past the words of the questions."""
    why = f"{looking.why[:1].upper()}{looking.why[1:]}."
    shuffled, words = evaluation.baselines.get("shuffled_images"), evaluation.baselines.get("text_only")
    numbers = _numbers(evaluation, shuffled, words)
    numbers = f"{numbers[:1].upper()}{numbers[1:]}"
    if looking.says == DOES_NOT:
        return Clause("bad", "The model does not look at the picture", f"{why} {numbers}")
    if looking.says != LOOKS:
        return Clause("unknown", "Whether the model looks at the picture cannot be told", f"{why} {numbers}")
    low = evaluation.interval[0] if evaluation.interval else evaluation.accuracy
    if words is not None and low <= words.accuracy:
        short = "The model looks at the picture, and is no better than the words of the question alone"
        return Clause("bad", short, f"{why} {numbers}")
    return Clause("good", "The model looks at the picture", f"{why} {numbers}")


def tells_pairs_apart(retrieval: Retrieval) -> Clause:
    """Judged by the lower ends of both 95 % intervals against chance."""
    if retrieval.beats_chance:
        return Clause("good", "The model tells which text belongs to which image", retrieval.numbers)
    return Clause("bad", "The model finds texts and images no better than chance", retrieval.numbers)


def _numbers(evaluation: Evaluation, shuffled: Baseline | None, words: Baseline | None) -> str:
    parts = [f"{percent(evaluation.accuracy)} right with it"]
    if shuffled is not None:
        parts.append(f"{percent(shuffled.accuracy)} with the pictures shuffled")
    if words is not None:
        parts.append(f"{percent(words.bar)} {'at most ' if words.ceiling else ''}from the words alone")
    return ", ".join(parts) + "."


def found_sound(guard: Guard, status: str) -> Clause:
    """Sound means: the run finished, at least one check ran, and none found an error or a warning."""
    passed, unseen = len(guard.passed), len(guard.unseen)
    ran = f"{plural(passed, 'check')} passed" + (f", {unseen:,}{SPACE}could not see" if unseen else "")
    ran += f", {plural(len(guard.allowed), 'finding')} allowed by the recipe." if guard.allowed else "."
    errors, warnings = guard.count("error"), guard.count("warning")
    others = sum(group[0].severity not in ("error", "warning", "note") for group in guard.found)
    if errors or warnings or others:
        counts = [(errors, "error"), (warnings, "warning"), (others, "finding")]
        said = " and ".join(plural(count, noun) for count, noun in counts if count)
        return Clause(
            "bad" if errors or others else "warn",
            f"the guard found {said}",
            f"See what it found and how to mend it. {ran}",
        )
    if not passed:
        why = "No check ran." if guard.recorded else "The guard left no record in this run."
        return Clause("unknown", "the guard cannot vouch for the run", why)
    if status == "finished":
        return Clause("good", "the guard found the run sound", ran)
    when = "so far" if status == "running" else "before the run ended"
    return Clause("unknown", f"the guard found nothing wrong {when}", ran)
