"""lmms-eval itself, on a task made here and a run made here. Skipped where lmms-eval is not installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, Image
from safetensors.torch import save_model

from sightline.evaluate.answer import Answerer
from sightline.evaluate.lmms_eval_bridge.questions import Bridge
from sightline.models.build import Built
from tests.evaluate import tiny

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
pytestmark = pytest.mark.slow

UTILS = """
def visual(doc):
    return [doc["image"]]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def results(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""
TASK = {
    "dataset_path": "parquet",
    "test_split": "test",
    "doc_to_visual": "!function utils.visual",
    "doc_to_text": "!function utils.text",
    "doc_to_target": "answer",
}
WRITES = {
    "task": "tiny_writes",
    "output_type": "generate_until",
    "generation_kwargs": {"max_new_tokens": 2, "temperature": 0, "do_sample": False, "until": ["\n"]},
    "process_results": "!function utils.results",
    "metric_list": [{"metric": "right", "aggregation": "mean", "higher_is_better": True}],
}
CHOOSES = {
    "task": "tiny_chooses",
    "output_type": "multiple_choice",
    "doc_to_choice": list(tiny.COLORS),
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """A tiny model, saved as a run in tmp_path / "run"."""
    built = tiny.model(tiny.questions(tiny.pictures(tmp_path)))
    built.save_parts(tmp_path / "run" / "encoder")
    (tmp_path / "run" / "checkpoints" / "latest").mkdir(parents=True)
    save_model(built.model, str(tmp_path / "run" / "checkpoints" / "latest" / "model.safetensors"))
    return built


@pytest.fixture
def tasks(tmp_path: Path, built: Built) -> Path:
    """A folder with two tasks of six questions; every other truth is what the model says."""
    rows = tiny.questions(tiny.pictures(tmp_path))[:-1:2]
    said = Answerer(built, batch=1, max_new_tokens=2)(rows)
    truth = [answer if place % 2 else "something else" for place, answer in enumerate(said)]
    paths = [str(row.images[0].path) for row in rows]
    columns = {"image": paths, "question": [row.question for row in rows], "answer": truth}
    Dataset.from_dict(columns).cast_column("image", Image()).to_parquet(tmp_path / "rows.parquet")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "utils.py").write_text(UTILS)
    files = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.parquet")}}}
    for task in (WRITES, {**CHOOSES, "doc_to_target": 0}):
        text = yaml.safe_dump({**TASK, **files, **task}).replace("'!function utils.visual'", "!function utils.visual")
        for name in ("text", "results"):
            text = text.replace(f"'!function utils.{name}'", f"!function utils.{name}")
        (folder / f"{task['task']}.yaml").write_text(text)
    return folder


def _evaluated(run: Path, tasks: Path) -> dict[str, Any]:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    from sightline.evaluate.lmms_eval_bridge import manifest

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)  # as the entry point of an installation does
    return simple_evaluate(
        model="sightline",
        model_args=f"run={run},device=cpu",
        tasks=["tiny_writes", "tiny_chooses"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=4,
        bootstrap_iters=10,
        log_samples=True,
    )


def test_tasks_are_scored_as_the_model_answers(tmp_path: Path, built: Built, tasks: Path) -> None:
    found = _evaluated(tmp_path / "run", tasks)
    assert found["results"]["tiny_writes"]["right,none"] == pytest.approx(0.5)
    rows = tiny.questions(tiny.pictures(tmp_path))[:-1:2]
    bridge = Bridge(built, batch=6)
    right = 0
    for row in rows:
        prompt = replace(row, turns=row.turns[:1])
        marks = [mark for mark, _ in bridge.likelihoods([prompt] * len(tiny.COLORS), list(tiny.COLORS))]
        right += marks.index(max(marks)) == 0
    assert found["results"]["tiny_chooses"]["acc,none"] == pytest.approx(right / len(rows))
