"""Frozen parts that nobody ever gave a value: forgotten ones are told, and random parts that are meant are not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import sightline
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.usefixtures("origins")
STEPS = 8


def tower(width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, width), nn.Tanh())


def trained(module: nn.Module) -> nn.Module:
    """Pretrained in this process, and frozen."""
    x = torch.randn(16, 12)
    opt = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(3):
        opt.zero_grad()
        (module(x) - x[:, :1]).square().mean().backward()
        opt.step()
    return module.requires_grad_(False)


class Adapter(nn.Module):
    """A low-rank addition to a linear map. `first`: whether its first matrix learns too."""

    def __init__(self, base: nn.Linear, first: bool = True) -> None:
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 4, bias=False).requires_grad_(first)
        self.up = nn.Linear(4, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def adapted(body: nn.Sequential, first: bool = True) -> nn.Sequential:
    body[0] = Adapter(body[0], first)
    return body


class Bridge(nn.Module):
    """Two towers with a projector in between."""

    def __init__(self, eyes: nn.Module, words: nn.Module, projector: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.eyes, self.projector, self.words = eyes, projector, words
        self.head = head or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(self.projector(self.eyes(x))))


class Dual(nn.Module):
    """Two encoders, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = trained(tower()), trained(tower())
        self.left_projection, self.right_projection = nn.Linear(16, 8), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left_projection(self.left(x)), self.right_projection(self.right(x.flip(1)))
        return self.scale.exp() * F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T


class Distillation(nn.Module):
    """Learns to give what a random head gives of features that were learned before."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.target, self.guess = trained(tower()), nn.Linear(16, 8).requires_grad_(False), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.guess(features) - self.target(features)


class Perceptual(nn.Module):
    """A decoder learns to rebuild; a random network compares."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.compare = trained(tower()), nn.Linear(16, 12), tower().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.compare(self.decoder(self.encoder(x))) - self.compare(x)


class Target(nn.Module):
    """Online and target network; the target is a copy, and moves only now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(12, 16), nn.TransformerEncoderLayer(16, 2, 16, 0.0), nn.Linear(16, 8))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())
        self.guess = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.guess(self.online(x)) - self.target(x + 0.1)


def frozen_all_but(model: nn.Module, *learn: nn.Module | nn.Parameter, by_attribute: bool = False) -> nn.Module:
    model.requires_grad_(False)
    for part in learn:
        if by_attribute:
            part.requires_grad = True  # a mistake: it does nothing on a module
        else:
            part.requires_grad_(True)
    return model


def words(projector: nn.Module, *, learn: bool) -> nn.Module:
    """A language tower with adapters behind a trained vision tower."""
    language = adapted(trained(tower()))
    return Bridge(trained(tower()), language, projector.requires_grad_(learn), nn.Linear(16, 4))


def reward(*, learn: bool) -> nn.Module:
    return nn.Sequential(adapted(trained(tower())), nn.Linear(16, 4).requires_grad_(learn))


def dual(*, learn: bool) -> nn.Module:
    model = Dual()
    frozen_all_but(model, model.scale)
    return frozen_all_but(model, model.scale, model.left_projection, model.right_projection) if learn else model


def one_side(*, learn: bool) -> nn.Module:
    model = Dual()
    frozen_all_but(model, model.scale, model.left_projection)
    if learn:
        model.right_projection.requires_grad_(True)
    else:
        model.right_projection.requires_grad = True  # type: ignore[assignment]
    return model


def loaded(*, learn: bool) -> nn.Module:
    """The tower's state comes from a file of another process; the head is drawn from a normal distribution."""
    body = tower()
    body.load_state_dict({name: value + 0.3 * torch.randn_like(value) for name, value in body.state_dict().items()})
    head = nn.Linear(16, 4)
    nn.init.normal_(head.weight, std=0.02)
    model = nn.Sequential(adapted(body.requires_grad_(False)), head)
    return model if learn else frozen_all_but(model, model[0][0].down, model[0][0].up)


FORGOTTEN: dict[str, Callable[..., nn.Module]] = {
    "a projector between two towers": lambda learn: words(nn.Linear(16, 12), learn=learn),
    "a projector of two layers": lambda learn: words(
        nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 12)), learn=learn
    ),
    "a head behind adapters": reward,
    "both projections": dual,
    "one projection, by an attribute": one_side,
    "a head of another distribution, behind a state that was loaded": loaded,
}


def random_tower() -> nn.Module:
    return Bridge(tower().requires_grad_(False), adapted(trained(tower())), nn.Linear(16, 12), nn.Linear(16, 4))


def random_language() -> nn.Module:
    return Bridge(
        trained(tower()), nn.Sequential(tower(), nn.Linear(16, 12), tower()).requires_grad_(False), nn.Linear(16, 12)
    )


def random_and_whole() -> nn.Module:
    """A random projection that a language tower learns to read."""
    return Bridge(trained(tower()), tower(), nn.Linear(16, 12).requires_grad_(False))


def pooler() -> nn.Module:
    return nn.Sequential(trained(tower()), nn.Linear(16, 16).requires_grad_(False), nn.Tanh(), nn.Linear(16, 4))


def stand_in() -> nn.Module:
    """A "pretrained" body that never was: its state was saved as it was made."""
    body = tower()
    body.load_state_dict(tower().state_dict())
    return nn.Sequential(adapted(body.requires_grad_(False)), nn.Linear(16, 4).requires_grad_(False))


def plain_inits() -> nn.Module:
    """A frozen copy of layers that were filled by hand, in an optimizer with all the rest."""
    model = Target()
    for p in model.online.parameters():
        p.data.normal_(0, 0.1)
    model.target.load_state_dict(model.online.state_dict())
    return model


def temperature() -> nn.Module:
    model = nn.Sequential(trained(nn.Sequential(*tower(), nn.Linear(16, 4))), nn.LayerNorm(4))
    return frozen_all_but(model, model[1])


MEANT: dict[str, Callable[[], nn.Module]] = {
    "a random vision tower": random_tower,
    "a random language tower": random_language,
    "a random projection that is learned to be read": random_and_whole,
    "a pooler before a head": pooler,
    "the first of two low-rank matrices": lambda: nn.Sequential(
        adapted(trained(tower()), first=False), nn.Linear(16, 4)
    ),
    "a random target": Distillation,
    "a random network that compares": Perceptual,
    "a target network": Target,
    "a target network, by hand": plain_inits,
    "a stand-in for a checkpoint": stand_in,
    "scales behind a trained model": temperature,
}


def findings(model: nn.Module, *, whole: bool = False) -> list[str]:
    opt = torch.optim.AdamW(
        model.parameters() if whole else [p for p in model.parameters() if p.requires_grad], lr=1e-3
    )
    checks = load((page("T1"),))
    with sightline.attach(model, opt, on_finding=None, budget=1.0, checks=checks) as guard:
        for _ in range(STEPS):
            x = torch.randn(16, 12)
            out = model(x)
            opt.zero_grad()
            F.cross_entropy(out, x[:, : out.shape[1]].argmax(1) % out.shape[1]).backward()
            opt.step()
    return [f"{one.message} | {one.fix}" for one in guard.findings]


@pytest.mark.parametrize("case", FORGOTTEN)
def test_what_was_forgotten(case: str) -> None:
    torch.manual_seed(0)
    (found,) = findings(FORGOTTEN[case](learn=False))
    assert "as their init left them" in found and "requires_grad" in found
    assert findings(FORGOTTEN[case](learn=True)) == []


@pytest.mark.parametrize("case", MEANT)
def test_what_is_meant(case: str) -> None:
    torch.manual_seed(0)
    assert findings(MEANT[case]()) == []
    assert findings(MEANT[case](), whole=True) == []


def test_an_attribute_is_named() -> None:
    assert "call right_projection.requires_grad_(True)" in findings(one_side(learn=False))[0]


def test_nothing_is_left_behind() -> None:
    """The pass of our own changes no flag, gradient, hook or random number."""
    torch.manual_seed(0)
    model = words(nn.Linear(16, 12), learn=False)
    flags = [p.requires_grad for p in model.parameters()]
    assert findings(model)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    torch.manual_seed(1)
    watched = [value.clone() for value in model.state_dict().values()]
    torch.manual_seed(0)
    twin = words(nn.Linear(16, 12), learn=False)
    opt = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(STEPS):
        x = torch.randn(16, 12)
        opt.zero_grad()
        F.cross_entropy(twin(x), x[:, :4].argmax(1)).backward()
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(watched, twin.state_dict().values(), strict=True))


# --- new tokens ----------------------------------------------------------------------------------------------------


def chat(case: str) -> nn.Module:
    """A model that was trained in this process gets three more tokens."""
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        tie_word_embeddings="tied" in case,
    )
    model = LlamaForCausalLM(config)
    if "stand-in" not in case:
        opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(2):
            ids = torch.randint(1, 24, (4, 8))
            opt.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            opt.step()
    model.resize_token_embeddings(27)
    if "by hand" in case:
        model.get_input_embeddings().weight.data[24:] = model.get_input_embeddings().weight.data[5]
    model.requires_grad_(False)
    if "rows learn" not in case:
        model.model.layers[0].mlp.up_proj = Adapter(model.model.layers[0].mlp.up_proj)
    if "output learns" in case:
        model.lm_head.requires_grad_(True)
    if "rows learn" in case:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[24, 25, 26])
        return peft.get_peft_model(model, config)
    return model


def taught(case: str) -> list[str]:
    torch.manual_seed(0)
    model = chat(case)
    learning = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(learning, lr=1e-3)
    with sightline.attach(model, opt, on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
        for _ in range(STEPS):
            ids = torch.randint(1, 24, (4, 8))
            ids[:, 5] = 25
            labels = ids.clone()
            if "prompts" in case:
                labels[ids >= 24] = -100
            opt.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            opt.step()
    return [f"{one.message} | {one.fix}" for one in guard.findings]


@pytest.mark.parametrize("case", ["plain", "tied"])
def test_new_tokens_that_nobody_can_learn(case: str) -> None:
    (found,) = taught(case)
    assert "3 new tokens" in found and "trainable_token_indices" in found


@pytest.mark.parametrize("case", ["prompts", "stand-in", "by hand", "output learns", "rows learn"])
def test_new_tokens_that_need_not_or_do(case: str) -> None:
    assert taught(case) == []


class LowRank(nn.Module):
    """A trained layer, and what is added to it: a product that begins at 0."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain, self.down = plain, nn.Parameter(torch.empty(2, plain.in_features))
        self.up = nn.Parameter(torch.zeros(plain.out_features, 2))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + x @ self.down.T @ self.up.T


def tuned(case: str) -> list[str]:
    """A body that was trained, a new output layer, and additions that `case` freezes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    for stage in ("before", "after"):
        if stage == "after":
            for place in (0, 2):
                model[place].requires_grad_(False)
                model[place] = LowRank(model[place])
                if case == "too late":
                    model[place].requires_grad_(False)
                if case == "half":
                    model[place].down.requires_grad_(False)
            model[4] = nn.Linear(16, 4)
        opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        with sightline.attach(model, opt, on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
            for _ in range(STEPS):
                x = torch.randn(8, 16)
                opt.zero_grad()
                nn.functional.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
                opt.step()
    return [one.message for one in guard.findings]


def test_low_rank_additions_that_are_frozen_with_the_rest() -> None:
    (found,) = tuned("too late")
    assert "times zeros that are frozen too" in found
    assert tuned("meant") == tuned("half") == []


@pytest.mark.parametrize("learn", [False, True])
def test_a_later_stage_forgets_the_projector(learn: bool) -> None:
    """All is free in the first stage, in which the towers learn and the projector is not used."""
    torch.manual_seed(0)
    model = Bridge(tower(), nn.Sequential(nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, 16), nn.Linear(16, 4))
    projector, model.projector = model.projector, nn.Identity()
    model.spare = projector
    with sightline.attach(model, on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
        for stage in (1, 2):
            if stage == 2:
                model.projector = projector
                model.requires_grad_(False)
                model.head.requires_grad_(True)
                projector.requires_grad_(learn)
            held = [
                p for p in model.parameters() if p.requires_grad and (stage == 2 or p not in {*projector.parameters()})
            ]
            opt = torch.optim.AdamW(held, lr=1e-2)
            for _ in range(STEPS):
                x = torch.randn(16, 12)
                opt.zero_grad()
                F.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
                opt.step()
    told = [finding.message for finding in guard.findings]
    assert [("as their init left them" in one) for one in told] == [True] * (not learn)


class Small(nn.Module):
    """Towers by their looks: a convolution, a connector by its name, a table of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.connector = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 16)
        self.language = nn.ModuleDict({"words": nn.Embedding(32, 16), "body": nn.Linear(16, 16)})
        self.lm_head = nn.Linear(16, 32)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        seen = self.connector(self.vision(pixel_values).flatten(2).transpose(1, 2))
        rows = torch.cat([seen, self.language["words"](input_ids)], dim=1)
        return self.lm_head(self.language["body"](rows).tanh())


@pytest.mark.parametrize("case", ["forgotten", "taught before", "loaded", "it learns", "all is frozen but the head"])
def test_a_connector_that_nothing_ever_taught(case: str) -> None:
    torch.manual_seed(0)
    model = Small()
    if case == "loaded":
        model.connector.load_state_dict({n: torch.randn_like(p) for n, p in model.connector.state_dict().items()})
    with sightline.attach(model, on_finding=None, budget=1.0, checks=load((page("X1"),))) as guard:
        for stage in (["connector"] if case == "taught before" else []) + ["language"]:
            model.requires_grad_(False)
            for part in (model.connector,) if stage == "connector" else (model.language, model.lm_head):
                part.requires_grad_(True)
            model.connector.requires_grad_(stage == "connector" or case == "it learns")
            model.language.requires_grad_(stage == "language" and "all" not in case)
            opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
            for _ in range(STEPS):
                ids = torch.randint(0, 32, (8, 6))
                opt.zero_grad()
                F.cross_entropy(model(torch.randn(8, 3, 8, 8), ids)[:, -6:].flatten(0, 1), ids.flatten()).backward()
                opt.step()
    assert ["random initial values" in one.message for one in guard.findings] == [True] * (case == "forgotten")


@pytest.mark.parametrize("case", ["left out", "held", "held by another, later", "trained before"])
def test_a_head_without_bias_that_no_optimizer_was_given(case: str) -> None:
    """As PEFT's `modules_to_save` beside groups that were made for adapters alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4, bias=False))
    nn.init.normal_(model[4].weight, std=0.02)
    if case == "trained before":
        with torch.no_grad():
            model[4].weight.mul_(3.0)
    held = [*model.parameters()] if case == "held" else [*model[:4].parameters()]
    opt = torch.optim.AdamW(held, lr=1e-3)
    other = torch.optim.AdamW(model[4].parameters(), lr=1e-3) if case.startswith("held by") else None
    with sightline.attach(model, opt, on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
        for step in range(24):
            x = torch.randn(16, 12)
            model.zero_grad()
            F.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
            opt.step()
            if other is not None and step >= 20:
                other.step()
    told = [finding.message for finding in guard.findings]
    assert [("get gradients and are in no optimizer" in one) for one in told] == [True] * (case == "left out")
