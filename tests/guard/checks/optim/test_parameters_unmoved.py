"""T1 at its borders: steps that stop, gradients cleared too soon, output layers that stay as they were made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import Finding
from sightline.guard.checks.optim.parameters_unmoved import find
from sightline.guard.evidence import HeadSeen, History, LossSeen, ParameterSeen, Setup, StepSeen, StillSeen, TowerSetup

STILL = StillSeen(20, 10, 10, 8, 4, 4, 4, 0.6, 8, 0.1)
PULL = LossSeen(1, 0, supervised=8, weight=0.1, softmax_rows=1.0, probability_rows=0.0)
UNIFORM = HeadSeen(
    0, "fc.weight", 48, 10, (3 * 48) ** -0.5, 1.8, (3 * 48) ** -0.5, False, learns=False, only_norms=True
)


def parameter(name: str = "fc.weight", **more: object) -> ParameterSeen:
    base = ParameterSeen(name, "model", 480, "float32", True, True, 0.01, 1.0, 3.0, 0.01, True)
    return replace(base, **more)  # type: ignore[arg-type]


def history(*parameters: ParameterSeen, micro: tuple[LossSeen, ...] = (PULL,), last: int = 4) -> History:
    return History(tuple(StepSeen(step, micro=micro, parameters=parameters) for step in (1, 2, 3, last)))


@pytest.mark.parametrize(
    ("still", "fix"),
    [
        (STILL, "record or compile it anew"),
        (replace(STILL, held=0), "make the optimizer"),
        (replace(STILL, graded=0, grad_norm=0.0, backwards=8), "zero_grad() after step()"),
    ],
)
def test_steps_that_write_to_nothing(still: StillSeen, fix: str) -> None:
    found = find(still=still)
    assert isinstance(found, Finding) and found.severity == "error" and fix in found.fix


@pytest.mark.parametrize(
    "still",
    [
        replace(STILL, learning_rate=0.0),
        replace(STILL, grad_norm=0.0),  # converged to the last digit
        replace(STILL, graded=0, grad_norm=0.0, backwards=4),  # bad batches are dropped
        replace(STILL, graded=0, grad_norm=0.0, backwards=0),  # steps without backward passes: nothing to apply
    ],
)
def test_steps_that_have_nothing_to_write(still: StillSeen) -> None:
    assert not isinstance(find(still=still), Finding)


def test_gradients_of_zero_where_the_loss_pulls() -> None:
    idle = parameter(grad_norm=0.0, update_norm=0.0, moved=False)
    decayed = parameter(grad_norm=0.0, update_norm=0.01 * 0.01 * 3.0)
    for seen in (history(idle), history(decayed)):
        found = find(history=seen)
        assert isinstance(found, Finding) and "every gradient was 0" in found.message
        assert "factors" not in found.fix
    gate, projection = (replace(idle, name=name, weight_norm=0.0) for name in ("gate", "out.weight"))
    found = find(history=history(gate, projection, idle))
    assert isinstance(found, Finding) and found.fix.startswith("if two of the 2 parameters that are all 0 are factors")
    assert find(history=history(idle, micro=())) is None  # a loss that does not pull
    assert find(history=history(idle, parameter("bias", grad_norm=0.1))) is None
    assert find(history=history(parameter(grad_norm=0.0))) is None  # something else moves it
    assert find(history=history(parameter(grad_norm=None))) is None  # a host that keeps gradients elsewhere


FROZEN = parameter(trainable=False, optimized=False, grad_norm=None, update_norm=0.0, moved=False)
OTHER = parameter("bn.weight")


def test_a_new_output_layer_behind_norms_that_learn() -> None:
    found = find(history=history(OTHER, FROZEN), head=UNIFORM)
    assert isinstance(found, Finding) and found.severity == "warning" and "frozen" in found.message


@pytest.mark.parametrize(
    "head",
    [
        replace(UNIFORM, only_norms=False),  # adapters, a connector, another block
        replace(UNIFORM, kurtosis=3.0),  # a normal init, or training
        replace(UNIFORM, kurtosis=2.4),
        replace(UNIFORM, rms=1.3 * UNIFORM.rms),
        replace(UNIFORM, bias_rms=0.0),
        replace(UNIFORM, inputs=8, classes=4, rms=24**-0.5, bias_rms=24**-0.5),  # too small to tell
        replace(UNIFORM, learns=True),
    ],
)
def test_an_output_layer_that_may_well_be_frozen(head: HeadSeen) -> None:
    assert find(history=history(OTHER, FROZEN), head=head) is None


def test_a_new_output_layer_behind_a_trained_body() -> None:
    head = replace(UNIFORM, only_norms=False, trained_body=True)
    assert isinstance(find(history=history(OTHER, FROZEN), head=head), Finding)
    assert find(history=history(OTHER, parameter()), head=head) is None  # unfrozen meanwhile


def test_a_new_output_layer_that_no_optimizer_holds() -> None:
    head, out = replace(UNIFORM, learns=True), parameter(optimized=False, update_norm=0.0, moved=False)
    part, all_of_it = (Setup({"model": TowerSetup("model", 900, 900, held)}) for held in (420, 900))
    found = find(history=history(OTHER, out, last=16), head=head, setup=part)
    assert isinstance(found, Finding) and "left out" in found.message and "parameter group" in found.fix
    assert find(history=history(OTHER, out, last=15), head=head, setup=part) is None  # its turn may come
    assert find(history=history(OTHER, out, last=16), head=head, setup=all_of_it) is None  # held by another
    assert find(history=history(OTHER, replace(out, grad_norm=None), last=16), head=head, setup=part) is None


def test_gradients_that_an_earlier_stage_left_behind() -> None:
    """Nobody cleared them; the optimizer of this stage holds another part, and no gradient comes to these."""
    learns = parameter("head.weight")
    stays = [parameter("eye.weight", tower="vision", optimized=False, moved=False, update_norm=0.0)] * 3
    pulled = [replace(one, grad_norm=0.1 * place) for place, one in enumerate(stays, 1)]

    def told(steps: list[ParameterSeen]) -> object:
        return find(
            history=History(tuple(StepSeen(n, micro=(PULL,), parameters=(learns, p)) for n, p in enumerate(steps)))
        )

    assert not isinstance(told(stays), Finding)
    found = told(pulled)
    assert isinstance(found, Finding) and "'vision' requires gradients, but the optimizer holds none" in found.message


def picked(frozen: str, *, held: bool = False) -> History:
    """A body with one frozen layer, one that gets gradients, and a head that learns."""
    steps = []
    for step in (1, 2, 3, 40):
        low = parameter(f"body.{frozen}.weight", trainable=False, optimized=False, grad_norm=None, moved=False)
        high = parameter("body.layers.1.weight", optimized=held, grad_norm=float(step), moved=held)
        steps.append(StepSeen(step, micro=(PULL,), parameters=(low, high, parameter("head.weight"))))
    return History(tuple(steps))


def test_a_layer_that_was_left_free_beside_frozen_ones_and_no_optimizer_holds() -> None:
    free, others = (Setup({"model": TowerSetup("model", 1440, 960, held)}) for held in (480, 960))
    found = find(history=picked("layers.0"), setup=free)
    assert isinstance(found, Finding) and found.severity == "warning" and "body.layers.1.weight" in found.message
    assert not isinstance(find(history=picked("positions"), setup=free), Finding)
    assert not isinstance(find(history=picked("layers.0", held=True), setup=free), Finding)
    assert not isinstance(find(history=picked("layers.0"), setup=others), Finding)
