"""The rules of the house. Each takes a tree and returns what breaks it, one sentence a place; empty means kept."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from tests.architecture.graph import circles, import_graph, modules

PACKAGE = "sightline"

# room -> the rooms it may import. Facts flow down this list, imports up. Every room knows `errors` and `atomic`.
ROOMS: Mapping[str, set[str]] = {
    "errors": set(),
    "atomic": set(),
    "recipe": set(),
    "data": {"recipe"},
    "models": {"recipe", "data"},
    "losses": set(),
    "plan": {"recipe", "data", "models"},
    "evaluate": {"recipe", "data", "models", "losses"},
    "serve": {"recipe", "data", "models"},
    "guard": set(),
    "attach": {"guard"},
    "report": set(),
    "doctor": {"recipe", "guard", "report"},
    "train": {"recipe", "data", "models", "losses", "plan", "evaluate", "guard", "attach", "report"},
    "commands": {
        "recipe",
        "data",
        "models",
        "plan",
        "evaluate",
        "serve",
        "guard",
        "attach",
        "report",
        "doctor",
        "train",
    },
    "cli": {"recipe", "guard", "commands", ""},
    "__main__": {"cli"},
    "": {"attach", "guard"},  # the package itself offers `sightline.attach` and its error
}
GROUND = {"errors", "atomic"}

# The same inside the guard: judges are pure, hands are few.
GUARD: Mapping[str, set[str]] = {
    "evidence": set(),
    "check": {"evidence"},
    "probes": {"evidence", "check"},
    "specimen": {"evidence", "check"},  # what a check's specimen is run with
    "checks": {"evidence", "check", "specimen"},
    "catalogue": {"evidence", "check", "checks"},
    "watch": {"evidence", "check", "catalogue", "probes"},
    "report": {"evidence", "check", "catalogue", "watch"},
    "": set(),
}

FILE_LINES = 330
CHECK_LINES = 130
FUNCTION_LINES = 55
NO_NAMES = {"util", "utils", "common", "helper", "helpers", "misc"}
NOT_MIRRORS = {"architecture", "hosts", "oracles"}  # folders of tests/ that stand for no room
PLACES = ("src", "tests", "docs", "benchmarks", ".ci")  # what belongs to the project, with the files at the root
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|root|Users|work|opt|mnt|scratch)/[\w.-]")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NAMED_PATH = re.compile(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)`")


def one_way_imports(src: Path) -> list[str]:
    """Rooms import only what stands before them, and so do the guard's own rooms."""
    graph = import_graph(src)
    return [
        *_forbidden(graph, PACKAGE, ROOMS),
        *_forbidden({m: e for m, e in graph.items() if m.startswith(f"{PACKAGE}.guard")}, f"{PACKAGE}.guard", GUARD),
    ]


def no_circles(src: Path) -> list[str]:
    """No module reaches itself through imports."""
    return [f"import circle: {', '.join(group)}" for group in circles(import_graph(src))]


def plain_names(root: Path) -> list[str]:
    """No file or folder is named for having no subject."""
    paths = chain.from_iterable((root / place).rglob("*") for place in PLACES)
    return [f"{_told(p, root)}: name it for what it holds" for p in paths if p.stem.lower() in NO_NAMES]


def small_files(src: Path) -> list[str]:
    """Files and functions that can be read at one sitting."""
    broken = []
    for path in modules(src).values():
        text = path.read_text(encoding="utf-8")
        limit = CHECK_LINES if f"{PACKAGE}/guard/checks/" in path.as_posix() else FILE_LINES
        if (lines := len(text.splitlines())) > limit:
            broken.append(f"{_told(path, src)}: {lines} lines, more than {limit}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    broken.append(f"{_told(path, src)}:{node.lineno}: {node.name} has {length} lines")
    return broken


def module_docstrings(src: Path) -> list[str]:
    """Every module says what it is, and every folder of modules is a package with an `__init__.py` that does."""
    paths = modules(src).values()
    folders = {path.parent for path in paths if not (path.parent / "__init__.py").exists()}
    return [
        *(f"{_told(folder, src)}: no __init__.py" for folder in sorted(folders)),
        *(
            f"{_told(path, src)}: no docstring"
            for path in paths
            if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
        ),
    ]


def tests_mirror_src(root: Path) -> list[str]:
    """A folder of tests stands for the folder or module of the same name."""
    broken = []
    for folder in (p for p in (root / "tests").rglob("*") if p.is_dir()):
        place = folder.relative_to(root / "tests")
        if place.parts[0] in NOT_MIRRORS or not any(folder.glob("*.py")):
            continue
        twin = root / "src" / PACKAGE / place
        if not twin.is_dir() and not twin.with_suffix(".py").is_file():
            broken.append(f"{_told(folder, root)}: mirrors nothing, there is no {_told(twin, root)}")
    return broken


def links_resolve(root: Path) -> list[str]:
    """Links between pages lead to a file, and to a heading of it; paths named in `code` exist."""
    broken = []
    for page in [*root.glob("*.md"), *(root / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in LINK.findall(text):
            if "://" in target or target.startswith("mailto:"):
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            if not file.exists():
                broken.append(f"{_told(page, root)}: no file {target}")
            elif anchor and anchor not in _anchors(file):
                broken.append(f"{_told(page, root)}: no heading {target}")
        broken += [f"{_told(page, root)}: no file {p}" for p in NAMED_PATH.findall(text) if not (root / p).exists()]
    return broken


def no_machine_paths(root: Path) -> list[str]:
    """Nothing in the project names a folder of somebody's machine."""
    broken = []
    for path in _texts(root):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line):
                broken.append(f"{_told(path, root)}:{number}: {line.strip()[:80]}")
    return broken


def _forbidden(graph: Mapping[str, Mapping[str, int]], base: str, allowed: Mapping[str, set[str]]) -> Iterator[str]:
    for module, targets in graph.items():
        room = _room(module, base)
        if room not in allowed:
            yield f"{module}: '{room}' is not a room of {base}: give it its place in tests/architecture/rules.py"
            continue
        for target, line in targets.items():
            if target != base and not target.startswith(f"{base}."):
                continue
            if (other := _room(target, base)) != room and other not in allowed[room] | (GROUND - {room}):
                yield f"{module}:{line} imports {target}: '{room or base}' may not know '{other or base}'"


def _room(module: str, base: str) -> str:
    return module.removeprefix(base).strip(".").partition(".")[0]


def _anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub writes them in links."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


def _texts(root: Path) -> Iterator[Path]:
    nested = chain.from_iterable((root / place).rglob("*") for place in PLACES)
    for path in chain((p for p in root.iterdir()), nested):
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".git":
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture or an archive
            yield path


def _told(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
