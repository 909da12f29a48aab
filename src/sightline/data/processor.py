"""load_processor: a model's processor, also where its video part cannot be loaded.

transformers needs torchvision for video processors alone. A model that reads pictures and videos (Qwen-VL, InternVL,
SmolVLM) is trained on pictures here, so where torchvision is missing its processor is made without the video part.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any


def load_processor(source: str | Path) -> Any:
    """The processor of `source`, a hub id or a folder. Raises what `AutoProcessor.from_pretrained` raises."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(str(source))
    except (ImportError, AttributeError, OSError):
        # transformers looks for the video processor's files and for its class before it misses torchvision.
        kind = _class_of(source)
        if kind is None or "video_processor" not in inspect.signature(kind.__init__).parameters:
            raise
        return without_video(kind).from_pretrained(str(source))


def without_video(kind: type[Any]) -> type[Any]:
    """Processor class `kind` with no video processor among its parts; it saves under the name of `kind`."""
    parts = [part for part in kind.get_attributes() if part != "video_processor"]
    own: dict[str, Any] = {
        "__doc__": kind.__doc__,
        "get_attributes": classmethod(lambda cls: parts),
        "__reduce__": lambda self: (_rebuilt, (kind, self.__dict__)),  # pickled for data loading processes
    }
    return type(kind.__name__, (kind,), own)


def _rebuilt(kind: type[Any], state: dict[str, Any]) -> Any:
    cls = without_video(kind)
    made = object.__new__(cls)
    made.__dict__.update(state)
    return made


def _class_of(source: str | Path) -> type[Any] | None:
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    told = Path(source) / "processor_config.json"
    if told.is_file():
        name = json.loads(told.read_text(encoding="utf-8")).get("processor_class")
        if name and hasattr(transformers, name):
            return getattr(transformers, name)
    config = type(transformers.AutoConfig.from_pretrained(str(source)))
    return PROCESSOR_MAPPING.get(config, None)
