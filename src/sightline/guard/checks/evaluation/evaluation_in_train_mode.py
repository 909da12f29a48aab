"""T3 · Evaluation runs with dropout or batch statistics of training switched on, or training with them off.

Symptom: validation scores are lower than they should be and change when nothing did; a sample's answer depends on the
other samples of its batch; evaluating often makes training worse, because batch norm learns from validation data.
Root cause: `model.eval()` was not called before the model, or a method of it that predicts (`torch.no_grad()` does not
do it), or what is called in validation turned train mode on again (a `generate` that ends in `train()`); or dropout is
a function call that does not ask for the mode: `F.dropout(x)` drops always, because `training=True` is its default; or
a teacher was left in train mode, or its parent's `train()` switched it back. The reverse: `model.train()` stands before
the loop that evaluates, so that steps train without dropout, on fixed batch statistics, after the first evaluation or
until the next epoch; `spectral_norm` in eval mode, before any pass in train mode, divides by anything.
Fix: call `model.eval()` before each evaluation and `model.train()` after it; write
`F.dropout(x, p, training=self.training)`, and `dropout_p=p if self.training else 0.0` for attention; use
`torch.nn.utils.parametrizations.spectral_norm`, which estimates at once.
Stays silent when: nothing in the model depends on the mode; modules in train mode make no difference to the output; a
model draws by design (a sampled latent, noise, masks, samples for a critic; dropout alone is on, and the same input is
asked many times); a forward pass belongs to training itself (an average's labels, a network asked twice, data that is
trained on, unread statistics, a dry run, a part alone within an epoch); training is in eval mode from the start, goes
over to it without an evaluation or in a loop of its own, or only some modules are (frozen batch norm).
Sources:
- https://github.com/udacity/deep-learning-v2-pytorch/issues/3 (2018-10-20): a course's notebooks without eval()
- https://github.com/pytorch/pytorch/issues/26338 (2019-09-17): F.dropout drops in eval mode, as documented
- https://github.com/pytorch/pytorch/issues/51800 (2021-02-05): spectral norm before its first power iteration
  (PyTorch-51800 of the TrainCheck paper; Transformers-33844 is attention's dropout in evaluation)
- https://github.com/ipolharvard/ethos-ares/issues/20 (2026-02-16): published results with dropout on, redone
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import EvaluationSeen, LeftInEvalSeen, TeacherSeen, UnsettledSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
OWN = 1  # step: what runs without gradients at every step is a part of training, unless the host says otherwise
LARGE = 2.5  # times its norm: one power iteration on a random matrix leaves 1.1 to 1.7, none leaves 4 to 200
BESIDE = "a {}", "call its eval() before it is used; model.train() of a module around it undoes that"
PART = "the frozen part '{}'", "call {}.eval() after every model.train(): the parent's train() switched it back"
SHOWN = 5  # module names in a finding: enough to recognise the part of the model


def find(
    evaluation: EvaluationSeen | None = None,
    unsettled: UnsettledSeen | None = None,
    left: LeftInEvalSeen | None = None,
    teacher: TeacherSeen | None = None,
) -> Verdict:
    """Did the mode change what the evaluation saw? Proved by the same batch in eval mode, or seen twice."""
    if left is not None:
        return _left(left)
    if teacher is not None:
        return _teacher(teacher)
    if unsettled is not None and max(unsettled.norms) > LARGE:
        return _unsettled(unsettled)
    return _judged(evaluation) if evaluation is not None else None


def _left(seen: LeftInEvalSeen) -> Finding:
    return Finding(
        severity="warning",
        message=seen.words,
        fix="call model.train() after each evaluation, or at the top of the loop over batches",
        seen={"switched off": list(seen.modules[:SHOWN]), "modules": len(seen.modules)},
    )


def _teacher(seen: TeacherSeen) -> Finding:
    who, fix = (text.format(seen.part or seen.kind) for text in (PART if seen.part else BESIDE))
    what = f"{who}, trained before, answers at every step with {len(seen.lively)} modules in train mode"
    numbers: dict[str, object] = {"in train mode": list(seen.lively[:SHOWN]), "eval mode changes it by": seen.mode_gap}
    return Finding("warning", f"{what}, e.g. {seen.lively[0]}", fix, numbers)


def _judged(seen: EvaluationSeen) -> Verdict:
    if seen.relapsed:
        return _train_mode(seen) if seen.mode_gap else None
    if not seen.declared and (seen.imitates or seen.step == 0 or (seen.since is not None and seen.since <= OWN)):
        return CannotTell("evaluation that the host declared, or a forward pass without gradients between two steps")
    if seen.lively and seen.mode_gap != 0:  # None: the probe could not repeat this forward pass
        return _train_mode(seen)
    if seen.dropouts and seen.difference:
        return _always_on(seen)
    return None


def _train_mode(seen: EvaluationSeen) -> Finding:
    proved = seen.declared and seen.mode_gap is not None
    what, fix = seen.words
    return Finding(
        severity="error" if proved else "warning",
        message=f"{what} with {len(seen.lively)} modules in train mode, e.g. {seen.lively[0]}",
        fix=fix,
        seen={"in train mode": list(seen.lively[:SHOWN]), "eval mode changes the output by": seen.mode_gap},
    )


def _unsettled(seen: UnsettledSeen) -> Finding:
    wrong = [norm for norm in seen.norms if norm > LARGE]
    return Finding(
        severity="warning",
        message=f"an evaluation ran with {len(wrong)} weights under spectral norm whose norm is up to {max(wrong):.3g},"
        " not 1: no pass in train mode had estimated it",
        fix="use torch.nn.utils.parametrizations.spectral_norm, or run one batch in train mode before evaluation",
        seen={"largest singular values": wrong[:SHOWN]},
    )


def _always_on(seen: EvaluationSeen) -> Finding:
    return Finding(
        severity="error" if seen.declared else "warning",
        message=f"the same batch gives two answers in evaluation: {', '.join(seen.dropouts)} drops values",
        fix="pass training=self.training to F.dropout (its default is True), or use nn.Dropout and model.eval()",
        seen={"outputs differ by up to": seen.difference, "functions": list(seen.dropouts)},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Two training steps and one evaluation."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = run.attach(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    (model.train if faulty else model.eval)()
    with guard.evaluating(), torch.no_grad():
        model(torch.randn(8, 4))
