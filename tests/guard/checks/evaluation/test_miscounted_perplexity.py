"""L7 on bare evidence: one number, and the ways to count that give it."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from statistics import fmean

import pytest

from sightline.attach.script.loss.words import rounding
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.miscounted_perplexity import find
from sightline.guard.evidence import BatchScore, JudgedLossesSeen, MetricsHistory, MetricsSeen, ScoreSeen


def batch(mean: float, tokens: int, rows: int = 4, pads: int = 0, pad_nll: float = 0.0, again: int = 0) -> BatchScore:
    told = mean * tokens + pad_nll * pads, tokens + pads
    fair = (mean * (tokens - again) - 0.5 * again, tokens - again)  # tokens that were seen before are easier
    return BatchScore(rows, told, fair if again else (mean * tokens, tokens), told, again, pads)


def reported(score: ScoreSeen, step: int = 8, **values: float) -> object:
    return find(MetricsHistory((MetricsSeen(step, {"loss": 9.0}), MetricsSeen(step, values, "evaluation"))), score)


UNEQUAL = ScoreSeen(8, (batch(2.0, 100), batch(4.0, 10, rows=1)), labelled=True)
MEANS = [2.0, 4.0]
PROMPTS = ScoreSeen(  # prompts without labels: as many places, few or many of them labelled
    8,
    (
        BatchScore(4, (40.0, 10), (40.0, 10), (200.0, 112), real=90),
        BatchScore(4, (100.0, 100), (100.0, 100), (120.0, 116), real=110),
    ),
    labelled=True,
)
RIGHT = (2.0 * 100 + 4.0 * 10) / 110
PADDED = ScoreSeen(8, (batch(3.0, 100, pads=60, pad_nll=0.1), batch(3.1, 90)), labelled=True)
WINDOWS = ScoreSeen(8, (batch(3.0, 64, rows=1), *[batch(2.6, 64, rows=1, again=32)] * 3), labelled=True)


@pytest.mark.parametrize(
    ("score", "values"),
    [
        (UNEQUAL, {"perplexity": exp(RIGHT)}),
        (UNEQUAL, {"val/loss": RIGHT, "accuracy": 0.3}),
        (ScoreSeen(8, (batch(2.0, 100), batch(2.08, 60)), True), {"ppl": exp(2.04)}),
        (PADDED, {"ppl": exp((300 + 279) / 190)}),
        (PROMPTS, {"ppl": exp(140 / 110)}),
    ],
    ids=["perplexity", "loss", "nearly the same", "padding left out", "prompts left out"],
)
def test_silent(score: ScoreSeen, values: dict[str, float]) -> None:
    assert reported(score, **values) is None


@pytest.mark.parametrize(
    ("score", "nats", "says"),
    [
        (UNEQUAL, fmean(MEANS), "mean over 2 batches"),
        (UNEQUAL, (4 * 2.0 + 4.0) / 5, "mean over 2 batches"),
        (UNEQUAL, log(fmean(map(exp, MEANS))), "batches' perplexities"),
        (PADDED, (300 + 6 + 279) / 250, "every labelled token"),
        (WINDOWS, (3.0 + 3 * 2.6) / 4, "every labelled token"),
        (PADDED, (306 / 160 * 100 + 279) / 190, "padding included"),
        (PADDED, (306 / 160 * 104 + 3.1 * 94) / 198, "padding included"),
        (PROMPTS, (4.0 * 116 + 1.0 * 120) / 236, "weighted by more places"),
        (PROMPTS, (4.0 * 112 + 1.0 * 116) / 228, "weighted by more places"),
        (PROMPTS, (4.0 * 90 + 1.0 * 110) / 200, "weighted by more places"),
        (UNEQUAL, (200 + 40) / (110 + 5), "those without a label included"),  # a row's first place has no target
    ],
    ids=[
        "batches",
        "rows",
        "perplexities",
        "padding",
        "overlap",
        "weighted by tokens",
        "weighted by the mask",
        "numel",
        "targets",
        "mask and prompts",
        "all",
    ],
)
def test_found(score: ScoreSeen, nats: float, says: str) -> None:
    verdict = reported(score, perplexity=exp(nats))
    assert isinstance(verdict, Finding) and verdict.severity == "warning" and says in verdict.message


def test_the_fix_names_what_was_counted() -> None:
    padded, windows = reported(PADDED, ppl=exp(585 / 250)), reported(WINDOWS, ppl=exp(2.7))
    assert isinstance(padded, Finding) and "padding" in padded.fix and padded.seen["padding scored"] == 60
    assert isinstance(windows, Finding) and "overlap" in windows.fix and windows.seen["tokens scored twice"] == 96


@pytest.mark.parametrize("loss", [3.0, 240 / 115], ids=["means", "with first places"])
def test_a_loss_that_is_off_in_a_common_way_is_a_note(loss: float) -> None:
    verdict = reported(UNEQUAL, loss=loss)
    assert isinstance(verdict, Finding) and verdict.severity == "note"
    told = reported(UNEQUAL, loss=loss, perplexity=exp(loss))
    assert isinstance(told, Finding) and told.severity == "warning"


def test_a_loss_over_all_places_is_more_than_a_note() -> None:
    verdict = reported(PROMPTS, eval_nll=(200 + 120) / (112 + 116))
    assert isinstance(verdict, Finding) and verdict.severity == "warning" and "every position" in verdict.message


@pytest.mark.parametrize(
    "verdict",
    [
        reported(UNEQUAL, perplexity=77.0),
        reported(UNEQUAL, accuracy=0.5),
        reported(UNEQUAL, step=9, perplexity=exp(3.0)),
        reported(ScoreSeen(8, (), False), perplexity=8.0),
    ],
    ids=["of something else", "no loss", "another evaluation", "nothing seen"],
)
def test_cannot_tell(verdict: object) -> None:
    assert isinstance(verdict, CannotTell)


def heard(mean: float, tokens: int, pads: int = 0) -> BatchScore:
    """A loss that the script computed itself."""
    told = mean * tokens, tokens
    return BatchScore(4, told, told, (told[0], tokens + pads), padding=pads)


OWN = JudgedLossesSeen(8, (heard(2.0, 100, 20), heard(4.0, 10, 40), heard(3.0, 50)))
OWN_MEAN, OWN_RIGHT, OWN_PADDED = 3.0, 390 / 160, 390 / 220


def printed(name: str, text: str, own: JudgedLossesSeen = OWN) -> object:
    """The verdict on a number that the script wrote so."""
    seen = MetricsSeen(8, {name: float(text)}, "evaluation", {name: rounding(text)})
    return find(MetricsHistory((seen,)), None, own)


@pytest.mark.parametrize(
    ("name", "text", "severity"),
    [
        ("val ppl", f"{exp(OWN_MEAN):.3f}", "warning"),
        ("perplexity", f"{exp(OWN_PADDED):.2f}", "warning"),
        ("ppl", f"{(exp(2) + exp(4) + exp(3)) / 3:.2f}", "warning"),
        ("val loss", f"{OWN_MEAN:.4f}", "note"),
        ("val bits per char", f"{OWN_RIGHT:.4f}", "warning"),
        ("bpb", f"{OWN_MEAN / log(2):.4f}", "warning"),
        ("ppl", f"{2**OWN_RIGHT:.3f}", "warning"),
        ("test loss", f"{OWN_PADDED:.3f}", "warning"),
        ("val ppl", f"{exp(9 / 12):.3f}", "warning"),
        ("val ppl", f"{exp(9 * 4 / 3):.0f}.0", "warning"),
        ("val loss", f"{9 / 12:.4f}", "note"),
    ],
)
def test_a_number_made_of_the_scripts_own_losses(name: str, text: str, severity: str) -> None:
    verdict = printed(name, text)
    assert isinstance(verdict, Finding) and verdict.severity == severity


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bpc", f"{OWN_RIGHT / log(2):.3f}"),
        ("ppl", f"{exp(OWN_RIGHT):.2f}"),
        ("val loss", f"{OWN_RIGHT:.3f}"),
        ("ppl", f"{exp(OWN_RIGHT):.6f}"),
    ],
)
def test_the_mean_over_tokens(name: str, text: str) -> None:
    assert printed(name, text) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ppl", f"{exp(OWN_MEAN):.0f}.0"),
        ("ppl", f"{exp(OWN_MEAN) * 1.002:.3f}"),
        ("val loss", f"{OWN_MEAN + 0.002:.3f}"),
        ("bits per byte", f"{OWN_RIGHT / log(2) / 3.7:.4f}"),
        ("val loss", f"{OWN_RIGHT / log(2):.4f}"),
    ],
    ids=["too few digits", "nearly", "another loss", "tokens of several bytes", "a loss in bits"],
)
def test_a_number_that_is_made_otherwise(name: str, text: str) -> None:
    assert isinstance(printed(name, text), CannotTell)


def test_padding_that_is_masked_and_counted() -> None:
    masked = [BatchScore(4, (220.0, 120), (200.0, 100), (220.0, 120), padding=20), heard(3.0, 50)]
    assert isinstance(printed("ppl", f"{exp(350 / 170):.3f}", JudgedLossesSeen(8, tuple(masked))), Finding)
    assert printed("ppl", f"{exp(350 / 150):.3f}", JudgedLossesSeen(8, tuple(masked))) is None


def test_a_row_a_batch() -> None:
    """Then a sum of means over rows is a mean of means, which is right where all are of one length."""
    own = JudgedLossesSeen(8, tuple(BatchScore(1, (n, 10), (n, 10), (n, 10)) for n in (20.0, 40.0)))
    assert printed("ppl", f"{exp(3):.3f}", own) is None


def test_few_digits_tell_of_what_is_far_off() -> None:
    own = JudgedLossesSeen(8, (heard(1.4, 100, 130), heard(1.6, 50, 40)))
    assert isinstance(printed("ppl", f"{exp(220 / 320):.2f}", own), Finding)
    assert isinstance(printed("ppl", f"{exp(220 / 320):.1f}", own), CannotTell)


@pytest.mark.parametrize(("short", "told"), [(2.08, True), (2.03, False)], ids=["3 % off", "1 % off"])
def test_what_its_digits_prove_counts_from_two_per_cent_on(short: float, told: bool) -> None:
    own = JudgedLossesSeen(8, (heard(2.0, 100), heard(short, 10)))
    assert isinstance(printed("ppl", f"{exp((2.0 + short) / 2):.3f}", own), Finding) == told


def test_the_last_batch_alone() -> None:
    """A loop that is still at work prints each batch's loss, and is no fault."""
    ended = JudgedLossesSeen(8, OWN.batches[:2], whole=True)
    verdict = printed("val loss", "4.000", ended)
    assert isinstance(verdict, Finding) and "of the last of 2 batches alone" in verdict.message
    assert isinstance(printed("val loss", "4.000", JudgedLossesSeen(8, OWN.batches[:2])), CannotTell)
    assert isinstance(printed("val loss", "2.000", ended), CannotTell)
    assert printed("val loss", "2.000", JudgedLossesSeen(8, OWN.batches[:1], whole=True)) is None


def test_smoothed_labels() -> None:
    own = JudgedLossesSeen(
        8, tuple(replace(one, smoothed=(one.told[0] + 0.5 * one.told[1], one.told[1])) for one in OWN.batches)
    )
    for nats in (OWN_RIGHT + 0.5, OWN_MEAN + 0.5):
        verdict = printed("val ppl", f"{exp(nats):.3f}", own)
        assert isinstance(verdict, Finding) and "label smoothing" in verdict.message
        assert isinstance(printed("val loss", f"{nats:.4f}", own), CannotTell)
    assert printed("val ppl", f"{exp(OWN_RIGHT):.3f}", own) is None


def test_the_scripts_own_losses_know_better_than_ids_without_a_mask() -> None:
    """Padding is among these, and their mean over batches is by chance what was printed."""
    every = tuple(BatchScore(4, (n * 40, 40), (n * 40, 40), (n * 40, 40)) for n in (2.0, OWN_RIGHT * 2 - 2.0))
    uneven = (*every[:1], BatchScore(4, (every[1].told[0] * 5, 200), *[(every[1].told[0] * 5, 200)] * 2))
    text = f"{exp(OWN_RIGHT):.3f}"
    last = MetricsHistory((MetricsSeen(8, {"ppl": float(text)}, "evaluation", {"ppl": rounding(text)}),))
    assert isinstance(find(last, ScoreSeen(8, uneven, labelled=False)), Finding)
    assert find(last, ScoreSeen(8, uneven, labelled=False), OWN) is None
    assert isinstance(find(last, ScoreSeen(8, uneven, labelled=True), OWN), Finding)


def test_perplexities_of_batches_weighted_by_rows() -> None:
    """As Lightning's `self.log` weighs what a validation step logs."""
    own = JudgedLossesSeen(8, (heard(2.0, 100), replace(heard(3.0, 50), rows=2)))
    right, wrong = exp(350 / 150), (exp(2) * 4 + exp(3) * 2) / 6
    assert isinstance(printed("val_ppl", f"{wrong:.4f}", own), Finding)
    assert printed("val_ppl", f"{right:.4f}", own) is None
