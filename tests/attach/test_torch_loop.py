"""The door: what each hook and each explicit call turns into, on real loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sightline
from sightline.errors import UserError
from sightline.guard.evidence import BatchSeen, EvaluationSeen, Evidence, Progress, RoundTripSeen, Setup, StepSeen


class Words(nn.Sequential):
    """Embedding and head: the shortest language model."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(8, 4), nn.Dropout(0.1), nn.Linear(4, 8))


def watched(model: nn.Module, optimizer: Any = None, **more: Any) -> tuple[Any, list[Evidence]]:
    """An attachment, and the evidence it shows."""
    guard = sightline.attach(model, optimizer, on_finding=None, **{"budget": 1.0, **more})
    seen: list[Evidence] = []
    offer = guard.watch.offer
    guard.watch.offer = lambda evidence: (seen.append(evidence), offer(evidence))[1]
    return guard, seen


def of(kind: type, seen: list[Evidence]) -> list[Any]:
    return [evidence for evidence in seen if type(evidence) is kind]


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, micro: int = 1, say: Any = None) -> None:
    ids = torch.arange(12).reshape(2, 6) % 8
    for _ in range(steps):
        for _ in range(micro):
            loss = nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
        optimizer.step()
        if say is not None:
            say(loss=loss, tokens=10)
        optimizer.zero_grad()


def test_an_optimizer_that_was_not_given_is_noticed() -> None:
    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, seen = watched(model)
    loop(model, optimizer)
    guard.close()
    assert [step.step for step in of(StepSeen, seen)] == [1, 2, 3]
    assert [setup.optimizer for setup in of(Setup, seen)] == [None, "SGD"]


def test_another_models_optimizer_is_none_of_our_business() -> None:
    guard, seen = watched(Words())
    other = Words()
    loop(other, torch.optim.SGD(other.parameters(), lr=0.1))
    guard.close()
    assert of(StepSeen, seen) == [] and of(Progress, seen)[-1] == Progress(0, 0, 0, closed=True)


def test_the_hosts_word_on_its_loss() -> None:
    torch.manual_seed(0)
    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, seen = watched(model, optimizer)
    loop(model, optimizer, say=guard.step)
    guard.close()
    steps = of(StepSeen, seen)
    assert all(step.loss is not None and step.tokens == 10 for step in steps)
    assert steps[-1].loss < steps[0].loss


def test_micro_batches_of_a_step() -> None:
    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, seen = watched(model, optimizer)
    loop(model, optimizer, steps=2, micro=3)
    guard.close()
    assert [len(step.micro) for step in of(StepSeen, seen)] == [3, 3]
    assert [m.weight for m in of(StepSeen, seen)[0].micro] == [pytest.approx(0.1, rel=1e-3)] * 3
    assert [step.carried for step in of(StepSeen, seen)] == [0.0, 0.0]


def test_two_optimizers_share_a_step() -> None:
    model = Words()
    both = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2])]
    guard, seen = watched(model)
    for _ in range(2):
        model(torch.ones(1, 3, dtype=torch.long)).square().mean().backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    guard.close()
    steps = of(StepSeen, seen)
    assert [step.step for step in steps] == [1, 1, 2, 2]
    assert {p.name for step in steps[:2] for p in step.parameters if p.moved} == {"0.weight", "2.weight", "2.bias"}
    assert guard.findings == ()


def test_evaluation_is_seen_once_a_time() -> None:
    model = Words()
    guard, seen = watched(model, torch.optim.SGD(model.parameters(), lr=0.1))
    ids = torch.ones(1, 3, dtype=torch.long)
    with guard.evaluating(), torch.no_grad():
        model(ids)
        model(ids)
    model.eval()
    with guard.evaluating():
        model(ids)
    guard.close()
    evaluations = of(EvaluationSeen, seen)
    assert [(e.declared, e.lively) for e in evaluations] == [(True, ("1",)), (True, ())]
    assert [b.phase for b in of(BatchSeen, seen)] == ["evaluation"] * 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_is_read_back(tmp_path: Path, wrapped: bool) -> None:
    model = Words()
    guard, seen = watched(model)
    torch.save({"model": model.state_dict()} if wrapped else model.state_dict(), tmp_path / "x.pt")
    guard.checkpoint(tmp_path / "x.pt")
    (answer,) = of(RoundTripSeen, seen)
    assert answer.compared == 3 and not answer.missing and not answer.changed


def test_stopping_on_an_error() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, _ = watched(model, optimizer, raise_on="error")
    with pytest.raises(sightline.GuardError, match="zero_grad") as caught, guard:
        for _ in range(3):
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    assert [finding.code for finding in caught.value.findings] == ["T2"]


def test_the_hosts_own_error_is_not_hidden() -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(ZeroDivisionError), sightline.attach(model, raise_on="error", on_finding=None):
        model(torch.randn(8, 4)).sum().backward()
        raise ZeroDivisionError


def test_no_steps_at_all_is_told_at_the_end() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard, _ = watched(model, optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
    guard.close()
    assert [finding.code for finding in guard.findings] == ["T1"]


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(UserError, match="no parameters"):
        sightline.attach(nn.ReLU())


def test_preflight_reads_a_few_batches_of_the_loader_and_puts_its_generator_back() -> None:
    model = Words()
    generator = torch.Generator().manual_seed(5)
    loader = torch.utils.data.DataLoader(torch.arange(60).reshape(10, 6) % 8, shuffle=True, generator=generator)
    guard, seen = watched(model, dataloader=loader)
    state = generator.get_state()
    guard.preflight()
    assert torch.equal(generator.get_state(), state)
    assert [batch.phase for batch in of(BatchSeen, seen)] == ["preflight"] * 4


def test_an_image_that_several_questions_show_counts_each_time() -> None:
    class Shared(Words):
        def __init__(self) -> None:
            super().__init__()
            self.vision, self.connector = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4, 4)

        def forward(self, input_ids: Any, labels: Any, pixel_values: Any, image_index: Any) -> Any:
            seen = self.connector(self.vision(pixel_values).flatten(2).transpose(1, 2))[image_index].flatten(0, 1)
            text = self[0](input_ids).masked_scatter((input_ids == 7)[..., None], seen)
            return nn.functional.cross_entropy(self[2](text)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    model = Shared()
    ids = torch.tensor([[7, 7, 7, 7, 1, 2], [7, 7, 7, 7, 3, 4]])
    pixels, index = torch.randn(1, 3, 4, 4), torch.tensor([0, 0])
    guard, seen = watched(model, image_token_id=7, towers={"vision": ["vision"], "connector": ["connector"]})
    batch = {"input_ids": ids, "labels": ids.masked_fill(ids == 7, -100), "pixel_values": pixels, "image_index": index}
    guard.preflight([batch])
    model(**batch).backward()
    guard.close()
    assert [(b.image_spans, b.image_features) for b in of(BatchSeen, seen)] == [(2, None), (2, 8)]
    assert of(Setup, seen)[-1].tokens_per_image == 4 and guard.findings == ()


def test_a_compiled_model_is_called_compiled_and_read_plain() -> None:
    class Plain(nn.Module):  # without a length, so that torch's wrapper of it has no truth value
        def __init__(self) -> None:
            super().__init__()
            self.body = Words()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            given: torch.Tensor = self.body(ids)
            return given

    model = Plain()
    compiled = torch.compile(model, backend="eager")
    guard, seen = watched(compiled)
    loop(compiled, torch.optim.SGD(model.parameters(), lr=0.1))
    guard.close()
    assert guard.model is model and [step.step for step in of(StepSeen, seen)] == [1, 2, 3]
    assert of(BatchSeen, seen)
