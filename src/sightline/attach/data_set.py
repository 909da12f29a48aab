"""A data set that a host holds becomes evidence: its columns, a few raw rows, and what they say once tokenized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sightline.attach.read import decoder
from sightline.attach.templates import TEMPLATES
from sightline.guard.evidence import DataSeen, Objective, Phase

ROWS = 4  # enough to tell a schema, few enough to print
IDS = ("input_ids", "prompt_ids", "chosen_ids", "prompt_input_ids", "chosen_input_ids")

OBJECTIVES: dict[str, Objective] = {  # TRL's configurations -> what their trainers do with a row
    "SFTConfig": "sft",
    "DPOConfig": "preference",
    "ORPOConfig": "preference",
    "CPOConfig": "preference",
    "KTOConfig": "unpaired-preference",
    "BCOConfig": "unpaired-preference",
    "RewardConfig": "reward",
    "GRPOConfig": "rollout",
    "RLOOConfig": "rollout",
    "OnlineDPOConfig": "rollout",
    "PPOConfig": "rollout",
}


def objective_of(args: Any) -> Objective | None:
    """What a TRL trainer with these arguments does with its rows: its configuration's class, or the nearest base."""
    return next((OBJECTIVES[kind.__name__] for kind in type(args).__mro__ if kind.__name__ in OBJECTIVES), None)


def whole_by_default(trainer: Any) -> bool:
    """Whether TRL's own collator makes labels of whole conversations, which its arguments leave as it is by default."""
    args: Any = getattr(trainer, "args", None)
    if objective_of(args) != "sft" or not type(trainer.data_collator).__module__.startswith("trl."):
        return False
    asked = args.assistant_only_loss or args.completion_only_loss is not None
    return not asked and not getattr(trainer, "completion_only_loss", False)


def data_seen(
    data_set: Any,
    *,
    objective: Objective | None = None,
    phase: Phase = "train",
    trainer: str | None = None,
    tokenizer: Any = None,
    step: int = 0,
    whole: bool = False,
) -> DataSeen | None:
    """The evidence from a map-style data set or a list whose rows are mappings; None for anything else.

    Reads the first rows by their index and draws nothing from a stream: its host could never get them back. The rows
    of a data set of `datasets` that makes them on the fly (``set_transform``) are left alone, for a transform may draw.
    """
    size = len(data_set) if hasattr(data_set, "__len__") else None
    rows = tuple(_rows(data_set)) if size else ()
    names = getattr(data_set, "column_names", None) or (tuple(rows[0]) if rows else None)
    if not names:
        return None
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    return DataSeen(
        step=step,
        columns=tuple(names),
        rows=rows,
        objective=objective,
        phase=phase,
        size=size,
        prepared=any(name in names for name in IDS),
        texts=tuple(_texts(rows, tokenizer)),
        trainer=trainer,
        templated=None if tokenizer is None else bool(getattr(tokenizer, "chat_template", None)),
        marks=tuple(mark for mark in getattr(tokenizer, "all_special_tokens", ()) if mark),
        whole=whole,
        roles=TEMPLATES.of(tokenizer),
    )


def spoken_since(seen: DataSeen | None, tokenizer: Any) -> DataSeen | None:
    """The same with the roles of a chat template that the script came to apply behind its training; else None."""
    roles = TEMPLATES.of(getattr(tokenizer, "tokenizer", tokenizer))
    return replace(seen, roles=roles) if seen is not None and roles and not seen.roles else None


def _rows(data_set: Any) -> Iterable[Mapping[str, Any]]:
    """The first rows of what is known to give the same row again: a table of `datasets`, or a plain sequence."""
    table = hasattr(data_set, "column_names") and not _transformed(data_set)
    if table or isinstance(data_set, Sequence):
        found = (data_set[place] for place in range(min(ROWS, len(data_set))))
        return (row for row in found if isinstance(row, Mapping))
    return ()


def _transformed(data_set: Any) -> bool:
    said = getattr(data_set, "format", None)
    return isinstance(said, Mapping) and said.get("type") == "custom"


def _texts(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> Iterable[str]:
    decode = decoder(tokenizer)
    for row in rows if decode else ():
        for name in islice((n for n in IDS if n in row), 1):
            ids = row[name].tolist() if hasattr(row[name], "tolist") else row[name]
            yield decode(ids)  # type: ignore[misc]
