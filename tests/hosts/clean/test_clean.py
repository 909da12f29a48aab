"""The clean corpus: correct scripts of strangers, through `sightline run`. No error, no warning, the same output.

`scripts/<group>/*.py` are ordinary programs that know nothing of Sightline; a new one needs no list to be edited.
Every script runs twice, plainly and watched, each time in a fork of a process that has imported the group's libraries.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPTS = sorted((HERE / "scripts").glob("*/*.py"))
PRELOAD = {
    "torch": ("torch", "torch.utils.data"),
    "hf": ("torch", "transformers", "datasets", "peft", "accelerate"),
    "trl": ("torch", "transformers", "datasets", "trl"),
    "lightning": ("torch", "lightning"),
    "slow": ("torch", "torch._dynamo"),
}
SLOW = {"ddp_gloo", "torch_compile", "qlora_nf4", "sft_packing", "t5_seq2seq", "vit_trainer"}
KNOWN: dict[str, str] = {}  # script -> why it still fails
VARIES = re.compile(r"'?\w*(runtime|per_second|step_time)'?: '?[\d.e+-]+'?")  # what a library prints of the clock
TEXT = (HERE / "input.txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Ran:
    """One run of a script."""

    status: int
    seconds: float
    output: str
    complaint: str
    findings: dict[str, Any] | None


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Ran, Ran]]:
    """A script -> its plain run and its watched run. A whole group runs when its first script is asked for."""

    @cache
    def group(name: str, slow: bool) -> dict[Path, tuple[Ran, Ran]]:
        scripts = [s for s in SCRIPTS if s.parent.name == name and (s.stem in SLOW) == slow]
        folder = tmp_path_factory.mktemp(f"clean-{name}")
        ways = [_start(folder / way, scripts, PRELOAD[name], watched=way == "watched") for way in ("plain", "watched")]
        for process in ways:
            assert process.wait(600) == 0
        return {s: (_read(folder / "plain", s), _read(folder / "watched", s)) for s in scripts}

    return lambda script: group(script.parent.name, script.stem in SLOW)[script]


def _start(folder: Path, scripts: list[Path], modules: tuple[str, ...], *, watched: bool) -> subprocess.Popen[bytes]:
    jobs = []
    for script in scripts:
        place = folder / script.stem
        place.mkdir(parents=True)
        (place / "input.txt").write_text(TEXT, encoding="utf-8")
        command = {"command": ["run", "--findings", str(place / "findings.json"), str(script)]} if watched else {}
        jobs.append({"argv": [str(script)], "folder": str(place), "out": str(place / "out.txt"), **command})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    ours = ("sightline.cli", "sightline.commands.run", "sightline.attach.torch_loop") if watched else ()
    return subprocess.Popen([sys.executable, str(HERE / "forked.py"), str(folder / "jobs.json"), *modules, *ours])


def _read(folder: Path, script: Path) -> Ran:
    out = folder / script.stem / "out.txt"
    ended = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    said = [path.read_text(encoding="utf-8", errors="replace") for path in (out, Path(f"{out}.err"))]
    found = out.with_name("findings.json")
    findings = json.loads(found.read_text(encoding="utf-8")) if found.exists() else None
    return Ran(ended["status"], ended["seconds"], said[0], said[1], findings)


def _cases() -> list[object]:
    cases = []
    for script in SCRIPTS:
        marks = [pytest.mark.slow] if script.stem in SLOW else []
        marks += [pytest.mark.ddp] if script.stem.startswith("ddp") else []
        marks += [pytest.mark.xfail(strict=True, reason=KNOWN[script.stem])] if script.stem in KNOWN else []
        cases.append(pytest.param(script, id=f"{script.parent.name}/{script.stem}", marks=marks))
    return cases


@pytest.mark.parametrize("script", _cases())
def test_nothing_is_wrong_with_it(script: Path, ran: Callable[[Path], tuple[Ran, Ran]]) -> None:
    plain, watched = ran(script)
    assert plain.status == 0, plain.complaint[-2000:]
    assert watched.status == 0, watched.complaint[-2000:]
    assert VARIES.sub("", watched.output) == VARIES.sub("", plain.output)
    assert watched.findings is not None, watched.complaint[-2000:]
    assert not watched.findings["run"]["problems"]  # watched to the end
    serious = [f for f in watched.findings["findings"] if f["severity"] != "note"]
    assert not serious, "\n".join(f"{f['code']} at step {f['step']}: {f['message']} {f['evidence']}" for f in serious)


def test_no_script_knows_that_it_is_watched() -> None:
    assert len(SCRIPTS) >= 25
    for script in SCRIPTS:
        assert "sightline" not in script.read_text(encoding="utf-8")
