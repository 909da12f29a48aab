"""The worked examples of CONTRIBUTING.md do what the page says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sightline.attach.torch_loop import attach
from sightline.errors import UserError
from sightline.guard import catalogue
from sightline.guard.catalogue import Check
from sightline.guard.specimen import Run
from sightline.models.build import build_meta
from sightline.recipe import load
from sightline.recipe.schema import TOWERS, ConnectorSpec
from sightline.train.freeze import freeze

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHECK, CONNECTOR = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(RECIPE,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def _module(text: str, file: Path) -> ModuleType:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(tmp_path: Path) -> Check:
    file = tmp_path / "optim" / "zero_learning_rate.py"
    module = _module(CHECK, file)
    page = catalogue.read_page(file)
    return Check(page, module.find, module.specimen, {"setup": "Setup"}, {})


def test_the_check_has_a_complete_page(check: Check) -> None:
    assert (check.page.code, check.page.name, check.page.room) == ("Z1", "zero-learning-rate", "optim")
    assert check.page.needs == ("Setup",)
    assert len(check.page.sources) == 1


@pytest.mark.parametrize(("faulty", "found"), [(True, ["zero-learning-rate"]), (False, [])])
def test_the_check_catches_its_fault_and_is_silent_on_the_twin(
    check: Check, faulty: bool, found: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    run = Run(lambda *args, **kwargs: attach(*args, checks=[check], **kwargs), tmp_path)
    check.specimen(run, faulty=faulty)
    run.close()
    assert [finding.check for finding in run.findings] == found
    assert run.kinds() == {"zero-learning-rate": "finding" if faulty else "passed"}


def test_the_recipe_builds_and_each_stage_trains_its_towers(tmp_path: Path) -> None:
    file = tmp_path / "tiny-captions.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    recipe = load(str(file))
    model = build_meta(recipe.model)
    learning = [[t for t in TOWERS if freeze(model, stage)[t].trainable] for stage in recipe.stages]
    assert learning == [["connector"], ["connector", "language"]]


def test_the_connector_averages_squares_of_patches(tmp_path: Path) -> None:
    average = _module(CONNECTOR, tmp_path / "average.py")
    spec = ConnectorSpec(kind="average", factor=2)
    assert average.tokens(16, spec) == 4
    features = torch.randn(3, 16, 5)
    connector = average.build(5, 7, spec)
    expected = connector[1](features[:, [0, 1, 4, 5]].mean(1))  # the upper left square of a 4 x 4 grid
    torch.testing.assert_close(connector(features)[:, 0], expected)
    assert connector(features).shape == (3, 4, 7)
    with pytest.raises(UserError, match="15 patches"):
        average.tokens(15, spec)
