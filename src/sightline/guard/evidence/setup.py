"""How a run is set up: towers, optimizer, tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Plan = Literal["all", "none", "part"]


@dataclass(frozen=True, slots=True)
class TowerSetup:
    """One tower as the model and the optimizer really have it.

    Attributes:
        parameters, trainable, optimized: numbers of elements: all; with requires_grad; held by the optimizer.
        planned: what the host's plan says of it; None without a plan.
        learning_rates: the distinct rates of the optimizer groups that hold its parameters, ascending.
        training: True when its outermost modules are all in train mode.
        lively: modules whose output differs in train mode and that are in it (dropout with p > 0, batch norm).
        adapters: trainable elements of low-rank adapters (parameter names with ``lora_``).
        dtypes: parameter dtype, e.g. ``bfloat16``, -> elements.
        untaught: elements of frozen matrices that are as an initialiser of this process left them; asked of connectors.
        drifting: batch norms in train mode of its frozen body, where the rest of it learns; asked of vision towers.
        readers: its modules that embed tokens and make something of them, where it has others, such as heads, too.
    """

    name: str
    parameters: int
    trainable: int
    optimized: int
    planned: Plan | None = None
    learning_rates: tuple[float, ...] = ()
    training: bool = True
    lively: tuple[str, ...] = ()
    adapters: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)
    untaught: int = 0
    drifting: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


Placed = Literal["bare names", "all-linear"]


@dataclass(frozen=True, slots=True)
class Adapted:
    """Where PEFT put adapters in one tower, given bare names alone. Layers by the last part of their names, sorted.

    Attributes:
        within: the tower's outermost module, by name.
        layers: those with adapters.
        siblings: linear layers without, in modules of which some layers have adapters.
        others: linear layers without, in the same blocks (items of a list of layers) as those with.
        rested: how the adapters were placed, where the layers were frozen when these came and other towers were not.
    """

    within: str
    layers: tuple[str, ...]
    siblings: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    rested: Placed | None = None


@dataclass(frozen=True, slots=True)
class TokenizerSetup:
    """What a tokenizer and the model's config say of the special tokens. `size` counts added tokens too."""

    size: int
    pad_id: int | None
    eos_id: int | None
    padding_side: str | None = None
    model_pad_id: int | None = None
    model_eos_id: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Setup:
    """How the run is set up.

    Attributes:
        orphans: elements the optimizer holds that belong to no parameter of the model.
        unfrozen: parameters that may learn now, and with which steps were taken while they were frozen.
        unfrozen_at: the steps that had been taken when there came to be more, or others, of these.
        outside: matrices that may learn, are as an initialiser of this process drew them, and are in no optimizer.
        unheeded: modules with an attribute ``requires_grad = False``, which torch reads nowhere: all in them learns.
        unwoken: modules with ``requires_grad = True`` set as an attribute, in which all is frozen, and never learnt.
        late: parameters that may learn now, are in no optimizer, and were frozen when the last one was made.
        ends: the ids that end a text, as the model's own config says, whether a tokenizer is known or not.
        undone: matrices that were loaded, and drawn anew by the end of the constructor that had them loaded.
        unmatched: the script's own conditions on names of parameters, to freeze or wake them, that no name here met.
        adapted: tower -> its adapters; none where PEFT has none, or was told more than names (a pattern, exceptions).
    """

    towers: Mapping[str, TowerSetup]
    tokenizer: TokenizerSetup | None = None
    embedding_rows: int | None = None
    embedding_width: int | None = None
    image_token_id: int | None = None
    tokens_per_image: int | None = None
    accumulation: int | None = None
    optimizer: str | None = None
    orphans: int = 0
    unfrozen: tuple[str, ...] = ()
    unfrozen_at: int | None = None
    outside: tuple[str, ...] = ()
    unheeded: tuple[str, ...] = ()
    unwoken: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    undone: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    adapted: Mapping[str, Adapted] = field(default_factory=dict)
    step: int = 0

    @property
    def joint(self) -> bool:
        """Whether connector and language tower both learn, in full."""
        towers = [self.towers.get(name) for name in ("connector", "language")]
        return all(t is not None and t.trainable > 0 and t.optimized > 0 and not t.adapters for t in towers)
