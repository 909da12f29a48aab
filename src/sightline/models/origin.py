"""Reading configurations and weights by hub id or folder, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from sightline.errors import UserError, nearest

T = TypeVar("T")
# Fields that configurations take although a fresh one does not show them.
ALSO_TAKEN = {
    "head_dim",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "dtype",
    "torch_dtype",
    "attn_implementation",
}


def read_or_explain(read: Callable[[], T], source: str, where: str) -> T:
    """What `read` returns; a missing or unreadable `source` becomes a UserError."""
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_local and not Path(source).expanduser().exists():
        raise UserError(f"there is no folder '{source}'", where=where, fix="correct the path, or give a hub id")
    try:
        return read()
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"'{source}' cannot be read: {first}",
            where=where,
            fix="check the hub id or path; offline, download it once with `hf download` where there is a network",
        ) from error


def read_config(source: str, where: str, gguf_file: str | None = None) -> PretrainedConfig:
    """The configuration of `source`. Raises UserError where there is none."""
    options = {"gguf_file": gguf_file} if gguf_file else {}
    return read_or_explain(lambda: AutoConfig.from_pretrained(source, **options), source, where)


def make_config(fields: Mapping[str, Any], where: str) -> PretrainedConfig:
    """A configuration from the fields of a recipe. Raises UserError for an unknown model type or field."""
    given = dict(fields)
    kind = str(given.pop("model_type"))
    if kind not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"transformers has no model type '{kind}' ({nearest(kind, CONFIG_MAPPING_NAMES)})",
            where=f"{where}.model_type",
        )
    fresh = AutoConfig.for_model(kind)
    for name in given:
        if not hasattr(fresh, name) and name not in ALSO_TAKEN:
            raise UserError(f"'{kind}' has no field '{name}' ({nearest(name, fresh.to_dict())})", where=where)
    try:
        return AutoConfig.for_model(kind, **given)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"'{kind}' refuses these fields: {error}", where=where) from error
