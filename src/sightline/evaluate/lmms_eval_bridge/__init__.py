"""A bridge to lmms-eval: its tasks (MMMU, MMBench and the rest) asked of a run that Sightline trained.

lmms-eval finds the model `sightline` by the entry point that pyproject.toml declares. Nothing of it is imported here.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval's registry of models wants to know."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="sightline", simple_class_path="sightline.evaluate.lmms_eval_bridge.model.SightlineRun"
    )
