"""Reads the set-up: towers, optimizer groups, tokenizer and model config, as they are at this moment."""

from __future__ import annotations

import dis
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import isfunction
from itertools import pairwise
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sightline.attach.adapted import adapted
from sightline.attach.named import NAMED
from sightline.attach.origins import ORIGINS, matrices
from sightline.attach.towers import Towers
from sightline.guard.evidence import Plan, Setup, TokenizerSetup, TowerSetup

IMAGE_TOKEN_FIELDS = ("image_token_id", "image_token_index", "media_token_id", "img_context_token_id")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the host told at the door and no hook can see. `plan`: tower -> all, none or part."""

    tokenizer: Any = None
    decode: Callable[[Sequence[int]], str] | None = None
    plan: Mapping[str, Plan] | None = None
    image_token_id: int | None = None
    tokens_per_image: int | None = None
    accumulation: int | None = None


def read_setup(model: nn.Module, towers: Towers, optimizers: Sequence[Optimizer], facts: Facts, step: int) -> Setup:
    """The set-up now. Costs one pass over parameters and modules, and reads values of what is left out of learning."""
    rates = {id(p): g.get("initial_lr", g.get("lr")) for o in optimizers for g in o.param_groups for p in g["params"]}
    ours = {id(p) for p in model.parameters()}
    foreign = [p for o in optimizers for g in o.param_groups for p in g["params"] if id(p) not in ours]
    embedding = embedding_of(model)
    return Setup(
        towers={name: _tower(model, name, towers, rates, facts.plan) for name in towers.modules},
        tokenizer=_tokenizer(facts.tokenizer, getattr(model, "config", None)),
        embedding_rows=embedding.num_embeddings if embedding is not None else None,
        embedding_width=embedding.embedding_dim if embedding is not None else None,
        image_token_id=image_token_of(model, facts),
        tokens_per_image=facts.tokens_per_image,
        accumulation=facts.accumulation,
        optimizer=" and ".join(type(o).__name__ for o in optimizers) or None,
        orphans=sum(p.numel() for p in foreign),
        outside=tuple(name for name, p in matrices(model) if id(p) not in rates and _new(p)),
        unheeded=_unheeded(model),
        unwoken=_unwoken(model),
        late=_late(model, rates),
        ends=_ends(getattr(model, "config", None)),
        undone=tuple(name for name, p in matrices(model) if ORIGINS.undone(p)),
        adapted=adapted(model, towers),
        unmatched=NAMED.unmatched(model),
        step=step,
    )


def _unheeded(model: nn.Module) -> tuple[str, ...]:
    """The modules that somebody meant to freeze by an attribute, though all their parameters learn."""
    meant = [(name, m) for name, m in model.named_modules() if vars(m).get("requires_grad") is False]
    held = ((name, [p.requires_grad for p in m.parameters()]) for name, m in meant)
    return tuple(name or type(model).__name__ for name, learns in held if learns and all(learns))


def _unwoken(model: nn.Module) -> tuple[str, ...]:
    """The modules that somebody meant to wake by an attribute, though all in them is frozen, and never learnt before.

    A class may keep a flag of that name for itself, and PEFT freezes what it wraps: nobody is mistaken there.
    """
    meant = [(name, m) for name, m in model.named_modules() if name and vars(m).get("requires_grad") is True]
    if not meant or not ORIGINS.listens or any("peft_config" in vars(m) for m in model.modules()):
        return ()
    held = ((name, list(m.parameters())) for name, m in meant if not _flagged(type(m)))
    return tuple(name for name, ps in held if ps and not any(p.requires_grad or ORIGINS.moved(p) for p in ps))


def _late(model: nn.Module, rates: Mapping[int, Any]) -> tuple[str, ...]:
    """What somebody chose to unfreeze after the last optimizer was made, and gave to none.

    Chose: other parts are still frozen. Tables of tokens are woken so that checkpointed layers have a gradient at all.
    """
    were = [(name, p) for name, p in model.named_parameters() if ORIGINS.froze(p)]
    if all(p.requires_grad for _, p in were):
        return ()
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    late = ((n, p) for n, p in were if p.requires_grad and id(p) not in tables)
    return tuple(n for n, p in late if id(p) not in rates and not ORIGINS.optimized(p))


def _flagged(kind: type) -> bool:
    """Whether a class sets an attribute `requires_grad` of its own instances."""
    plain = (f for one in kind.__mro__ if one is not nn.Module for f in vars(one).values() if isfunction(f))
    for code in (f.__code__ for f in plain if "requires_grad" in f.__code__.co_names):
        lines = list(dis.get_instructions(code))
        stores = [last for last, one in pairwise(lines) if (one.opname, one.argval) == ("STORE_ATTR", "requires_grad")]
        own = code.co_varnames[:1]
        if any(last.argval in own or (isinstance(last.argval, tuple) and last.argval[-1] in own) for last in stores):
            return True
    return False


def setup_mark(model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[object, ...]:
    """What a set-up is read from, in small: equal for as long as the set-up is."""
    modes = tuple((module.training, "requires_grad" in vars(module)) for module in model.modules())
    return modes, learning_mark(model, optimizers)


def learning_mark(model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[object, ...]:
    """The same of what can learn: the parameters, in which format and whether frozen, and all optimizers' groups."""
    groups = tuple((id(group), len(group["params"])) for o in optimizers for group in o.param_groups)
    return tuple((id(p), p.dtype, p.requires_grad) for p in model.parameters()), groups


def same_setup(one: Setup, other: Setup) -> bool:
    """Equal but for the step and the learning rates, which a schedule changes at every step."""

    def stripped(setup: Setup) -> Setup:
        towers = {name: replace(tower, learning_rates=()) for name, tower in setup.towers.items()}
        return replace(setup, towers=towers, step=0)

    return stripped(one) == stripped(other)


def image_token_of(model: nn.Module, facts: Facts) -> int | None:
    """The image placeholder's token id: told at the door, else said by the model or its config."""
    if facts.image_token_id is not None:
        return facts.image_token_id
    parts = (model, *model.children())  # a host's own module may hold the model
    told = (said for part in parts for said in (part, getattr(part, "config", None)))
    found = (getattr(said, name, None) for said in told for name in IMAGE_TOKEN_FIELDS)
    return next((int(i) for i in found if isinstance(i, int)), None)


def _tower(
    model: nn.Module, name: str, towers: Towers, rates: Mapping[int, Any], plan: Mapping[str, Plan] | None
) -> TowerSetup:
    parameters = [(n, p) for n, p in model.named_parameters() if towers.of.get(n) == name]
    dtypes: Counter[str] = Counter()
    for _, p in parameters:
        dtypes[str(p.dtype).removeprefix("torch.")] += p.numel()
    held = [p for _, p in parameters if id(p) in rates]
    return TowerSetup(
        name=name,
        parameters=sum(p.numel() for _, p in parameters),
        trainable=sum(p.numel() for _, p in parameters if p.requires_grad),
        optimized=sum(p.numel() for p in held),
        planned=plan.get(name, "none") if plan is not None else None,
        learning_rates=tuple(sorted({float(rates[id(p)]) for p in held if rates[id(p)] is not None})),
        training=all(module.training for module in towers.modules[name].values()),
        lively=towers.lively(name),
        drifting=towers.drifting(name) if name == "vision" else (),
        readers=towers.readers(name),
        adapters=sum(p.numel() for n, p in parameters if "lora_" in n and p.requires_grad),
        dtypes=dict(dtypes),
        untaught=_untaught([p for _, p in parameters]) if name == "connector" else 0,
    )


def _new(parameter: nn.Parameter) -> bool:
    """Whether it may learn, is as it was drawn, and no optimizer of the process was ever given it."""
    return parameter.requires_grad and not ORIGINS.optimized(parameter) and ORIGINS.fresh(parameter)


def _untaught(parameters: Sequence[nn.Parameter]) -> int:
    """Elements of random matrices, where all is frozen."""
    if any(p.requires_grad for p in parameters):
        return 0
    return sum(p.numel() for p in parameters if p.dim() > 1 and ORIGINS.fresh(p))


def embedding_of(model: nn.Module) -> nn.Embedding | None:
    """The token embedding: the model's own answer, else that of a model inside it, else the embedding with most rows.

    Who assembles a captioner of parts asks nobody, and its language model may have more positions than words.
    """
    return max(embeddings_of(model), key=lambda e: e.num_embeddings, default=None)


def embeddings_of(model: nn.Module) -> list[nn.Embedding]:
    """What may be the token embedding: what models answer, the whole one alone if it can; else every embedding."""
    if (found := _answered(model)) is not None:
        return [found]
    told = (_answered(module) for module in model.modules() if module is not model)
    return [one for one in told if one is not None] or [m for m in model.modules() if isinstance(m, nn.Embedding)]


def _answered(model: nn.Module) -> nn.Embedding | None:
    """What a model says itself, if it can."""
    if not callable(ask := getattr(model, "get_input_embeddings", None)):
        return None
    try:
        found = ask()
    except (NotImplementedError, AttributeError, TypeError):  # transformers' answer for models without one
        return None
    return found if isinstance(found, nn.Embedding) else None


def _tokenizer(tokenizer: Any, config: Any) -> TokenizerSetup | None:
    """A tokenizer's facts (a processor's tokenizer counts), with the model config's view of the same ids."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if tokenizer is None:
        return None
    text = getattr(config, "text_config", None) or config
    return TokenizerSetup(
        size=len(tokenizer),
        pad_id=getattr(tokenizer, "pad_token_id", None),
        eos_id=getattr(tokenizer, "eos_token_id", None),
        padding_side=getattr(tokenizer, "padding_side", None),
        model_pad_id=getattr(text, "pad_token_id", None),
        model_eos_id=_ends(config),
    )


def _ends(config: Any) -> tuple[int, ...]:
    """The ids that end a text, by a model's config."""
    ends = getattr(getattr(config, "text_config", None) or config, "eos_token_id", None)
    return tuple(ends) if isinstance(ends, list | tuple) else (() if ends is None else (ends,))
