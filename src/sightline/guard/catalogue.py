"""The catalogue of checks: the folder `checks/` is the registry. Pages are read without importing a check (or torch).

`pages()`, `page()` and `search()` read docstrings and signatures by `ast`; `load()` imports the checks themselves, and
takes the pages of those that are imported from them: that is what the start of a watched run waits for.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sightline.errors import UserError, nearest
from sightline.guard.check import Verdict

CHECKS = Path(__file__).parent / "checks"
_TITLE = re.compile(r"^([A-Z]{1,2}\d+) · (\S.*)$")
_SECTION = re.compile(r"^(Symptom|Root cause|Fix|Stays silent when|Sources):\s*", re.MULTILINE)
SECTIONS = ("Symptom", "Root cause", "Fix", "Stays silent when", "Sources")


@dataclass(frozen=True, slots=True)
class Page:
    """A check's page, as its file says it.

    `name` is what people allow and search for (kebab case of the file's name), `room` where the fix is made, `needs`
    the evidence types its `find` takes, `uses` those it takes when they are there.
    """

    code: str
    name: str
    room: str
    claim: str
    symptom: str
    root_cause: str
    fix: str
    silent_when: str
    sources: tuple[str, ...]
    domains: tuple[str, ...]
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    on_trial: bool
    path: Path

    @property
    def text(self) -> str:
        """The whole page as plain text, as `sightline explain` prints it."""
        body = (("Symptom", self.symptom), ("Root cause", self.root_cause), ("Fix", self.fix))
        lines = [f"{self.code} · {self.name}", self.claim, ""]
        lines += [f"{title}: {text}\n" for title, text in (*body, ("Stays silent when", self.silent_when))]
        return "\n".join([*lines, "Sources:", *(f"- {source}" for source in self.sources)])


@dataclass(frozen=True, slots=True)
class Check:
    """A loaded check: its page, its pure `find`, its `specimen`, and `find`'s parameters: name -> evidence type."""

    page: Page
    find: Callable[..., Verdict]
    specimen: Callable[..., None]
    needs: Mapping[str, str]
    uses: Mapping[str, str]


@cache
def pages() -> tuple[Page, ...]:
    """Every check's page, by code (L2 before L10)."""
    return tuple(sorted((read_page(file) for file in _files()), key=_order))


def page(key: str) -> Page:
    """The page with this code or name, whatever its case. Raises UserError for an unknown one."""
    wanted = key.strip().lower().replace("_", "-")
    for one in pages():
        if wanted in (one.code.lower(), one.name):
            return one
    known = [one.name for one in pages()]
    raise UserError(f"no check is called '{key}'", fix=f"{nearest(wanted, known)} (sightline checks lists them all)")


def search(word: str) -> tuple[Page, ...]:
    """The pages whose code or name is `word`; else those with `word` anywhere in them, as `grep -i` would."""
    wanted = word.strip().lower()
    exact = tuple(p for p in pages() if wanted in (p.code.lower(), p.name))
    return exact or tuple(p for p in pages() if wanted in p.text.lower())


def load(chosen: tuple[Page, ...] | None = None) -> tuple[Check, ...]:
    """The checks of `chosen` pages (None: all), imported."""
    if chosen is None:
        for file in _files():
            importlib.import_module(_module(file))
        chosen = pages()
    return tuple(_load(one) for one in chosen)


def _load(one: Page) -> Check:
    module = importlib.import_module(_module(one.path))
    needs, uses = _annotations(module.find)
    return Check(one, module.find, module.specimen, needs, uses)


def _files() -> list[Path]:
    return [file for file in CHECKS.glob("*/*.py") if file.name != "__init__.py"]


def _module(path: Path) -> str:
    return f"{__package__}.checks.{path.parent.name}.{path.stem}"


def read_page(path: Path) -> Page:
    """The page of the check in `path`. Raises ValueError naming the part that is missing."""
    module = sys.modules.get(_module(path)) if path.is_relative_to(CHECKS) else None
    if module is not None and module.__doc__ and hasattr(module, "find"):
        needs, uses = _annotations(module.find)
        return _page(path, inspect.cleandoc(module.__doc__), vars(module), needs, uses)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    needs, uses = _parameters(tree)
    return _page(path, ast.get_docstring(tree) or "", _constants(tree), needs, uses)


def _page(
    path: Path, doc: str, constants: Mapping[str, Any], needs: Mapping[str, str], uses: Mapping[str, str]
) -> Page:
    title, _, rest = doc.partition("\n")
    if not (match := _TITLE.match(title)):
        raise ValueError(f"{path}: the docstring must start with 'CODE · One sentence that names the fault.'")
    split = _SECTION.split(rest)
    found = dict(zip(split[1::2], split[2::2], strict=True))
    if absent := [name for name in SECTIONS if not found.get(name, "").strip()]:
        raise ValueError(f"{path}: the page has no {', '.join(absent)}")
    if "DOMAINS" not in constants:
        raise ValueError(f"{path}: DOMAINS is not assigned")
    sources = re.split(r"^\s*- ", found["Sources"], flags=re.MULTILINE)
    return Page(
        code=match[1],
        name=path.stem.replace("_", "-"),
        room=path.parent.name,
        claim=match[2],
        symptom=_flow(found["Symptom"]),
        root_cause=_flow(found["Root cause"]),
        fix=_flow(found["Fix"]),
        silent_when=_flow(found["Stays silent when"]),
        sources=tuple(_flow(source) for source in sources if source.strip()),
        domains=tuple(constants["DOMAINS"]),
        needs=tuple(needs.values()),
        uses=tuple(uses.values()),
        on_trial=bool(constants.get("ON_TRIAL", False)),
        path=path,
    )


def _order(one: Page) -> tuple[str, int]:
    letters = one.code.rstrip("0123456789")
    return letters, int(one.code[len(letters) :])


def _flow(text: str) -> str:
    """Lines joined into one paragraph."""
    return " ".join(text.split())


def _constants(tree: ast.Module) -> dict[str, Any]:
    """DOMAINS and ON_TRIAL, as far as the module assigns them: literals."""
    named = [
        (t.id, n.value) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    ]
    return {name: ast.literal_eval(value) for name, value in named if name in ("DOMAINS", "ON_TRIAL")}


def _annotations(find: Callable[..., Verdict]) -> tuple[dict[str, str], dict[str, str]]:
    """As `_parameters`, of a function that is imported."""
    needs: dict[str, str] = {}
    uses: dict[str, str] = {}
    for name, parameter in inspect.signature(find).parameters.items():
        kind = str(parameter.annotation).split(" | ")[0]
        (needs if parameter.default is parameter.empty else uses)[name] = kind
    return needs, uses


def _parameters(tree: ast.Module) -> tuple[dict[str, str], dict[str, str]]:
    """`find`'s parameters as (needs, uses): name -> evidence type; one with a default is used, not needed."""
    find = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "find"), None)
    if find is None:
        raise ValueError("the module has no function 'find'")
    first_default = len(find.args.args) - len(find.args.defaults)
    needs: dict[str, str] = {}
    uses: dict[str, str] = {}
    for place, argument in enumerate(find.args.args):
        kind = ast.unparse(argument.annotation).split(" | ")[0] if argument.annotation else ""
        (needs if place < first_default else uses)[argument.arg] = kind
    return needs, uses
