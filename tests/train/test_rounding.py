"""bf16 weights: rounding at random is right in the mean, and Kahan's sums follow fp32 AdamW where bf16 stands still."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from sightline.train.rounding import RoundedAdamW, Rounding, halve, round_at_random


def drawn(value: float, times: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return round_at_random(torch.full((times,), value), generator).double()


@pytest.mark.parametrize("value", [1.001, -1.001, 3.14159, 1e-30, -7e20, 0.999])
def test_the_mean_of_rounding_at_random_is_the_value(value: float) -> None:
    times = 200_000
    found = drawn(value, times)
    exact = float(torch.tensor(value))
    low, high = sorted(set(found.tolist()))
    assert low <= exact <= high and (high - low) <= abs(exact) / 2**7  # its two neighbours
    share = (exact - low) / (high - low)
    sigma = (high - low) * (share * (1 - share) / times) ** 0.5
    assert abs(float(found.mean()) - exact) < 5 * sigma


def test_what_bf16_holds_and_what_is_no_number_stays() -> None:
    for value in (0.0, 1.0, -2.5, float("inf"), -float("inf")):
        assert set(drawn(value, 100).tolist()) == {value}
    assert bool(drawn(float("nan"), 100).isnan().all())


def trained(rounding: Rounding | None, steps: int = 400) -> Tensor:
    """Weights about 1 moved to 1.1 by steps of 1e-4, below half of bf16's spacing; None: torch's AdamW in fp32."""
    torch.manual_seed(0)
    goal = torch.rand(2000) * 0.02 + 1.1
    weight = torch.nn.Parameter(torch.ones(2000, dtype=torch.float32 if rounding is None else torch.bfloat16))
    groups = [{"params": [weight], "lr": 1e-4}]
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
        if rounding is None
        else RoundedAdamW(groups, betas=(0.9, 0.99), eps=1e-8, rounding=rounding)
    )
    for _ in range(steps):
        optimizer.zero_grad()
        (weight.float() - goal).square().sum().backward()
        optimizer.step()
    return weight.detach().float()


def test_small_updates_arrive_but_for_rounding_to_nearest() -> None:
    exact = trained(None)
    apart = {kind: float((trained(kind) - exact).abs().mean()) for kind in ("nearest", "stochastic", "kahan")}
    moved = float((exact - 1).abs().mean())
    assert moved > 0.03 and apart["nearest"] == pytest.approx(moved)  # nothing moved at all
    assert apart["kahan"] < moved / 15  # within bf16's own spacing, 2^-7
    assert abs(float((trained("stochastic") - exact).mean())) < moved / 20  # without bias
    assert apart["kahan"] < apart["stochastic"] < apart["nearest"] / 2


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_a_state_taken_up_goes_on_to_the_bit(rounding: Rounding) -> None:
    def fresh() -> tuple[torch.nn.Parameter, RoundedAdamW]:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 64).bfloat16())
        return weight, RoundedAdamW([{"params": [weight], "lr": 1e-3}], betas=(0.9, 0.99), eps=1e-8, rounding=rounding)

    def step(weight: torch.nn.Parameter, optimizer: RoundedAdamW) -> None:
        optimizer.zero_grad()
        (weight.float() - 3).square().sum().backward()
        optimizer.step()

    (weight, optimizer), (again, other) = fresh(), fresh()
    for _ in range(5):
        step(weight, optimizer)
    with torch.no_grad():
        again.copy_(weight)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.state[again]["exp_avg_sq"].dtype == torch.float32
    for _ in range(5):
        step(weight, optimizer)
        step(again, other)
    assert torch.equal(weight, again)


def test_fp32_arithmetic_is_that_of_torchs_adamw() -> None:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(50)) for _ in range(2)]
    with torch.no_grad():
        weights[1].copy_(weights[0])
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    ours = RoundedAdamW([{"params": weights[:1], **settings}], betas=(0.9, 0.95), eps=1e-8, rounding="nearest")
    theirs = torch.optim.AdamW([{"params": weights[1:], **settings}], betas=(0.9, 0.95), eps=1e-8)
    for _ in range(10):
        for weight in weights:
            weight.grad = torch.sin(weight.detach() * 3)
        ours.step()
        theirs.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)


def test_what_the_configuration_tells_is_not_rounded() -> None:
    """Frequencies of rotary positions: rounded, the last of 4,096 positions would be off by more than a radian."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    model = LlamaModel(config)
    frequencies = model.rotary_emb.inv_freq.clone()
    assert float((4095 * (frequencies - frequencies.bfloat16().float())).abs().max()) > 1
    norm = torch.nn.BatchNorm1d(4)
    halve(torch.nn.ModuleList([model, norm]))
    assert torch.equal(model.rotary_emb.inv_freq, frequencies)
    assert {parameter.dtype for parameter in model.parameters()} == {norm.running_mean.dtype} == {torch.bfloat16}
