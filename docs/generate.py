"""Writes the pages of docs/ that are read from the source: checks, hosts, recipes and recipe-keys (`make docs`).

A test compares them with what this script would write, so they cannot go out of date.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from sightline.guard import catalogue
from sightline.guard.catalogue import Page
from sightline.recipe import Recipe, load, shipped
from sightline.recipe.schema import TOWERS, Stage, Tower

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PARTS = ("schema", "data", "model", "stage", "parallel", "numbers", "augment", "robust")
SCHEMA = [DOCS.parent / "src" / "sightline" / "recipe" / f"{name}.py" for name in PARTS]
NOTICE = "<!-- written by docs/generate.py (make docs): edit the source it names, not this page -->"
HOSTS = {  # the folder of its tests and the module of its door -> how it is called
    "torch_loop": "PyTorch loop",
    "hf_trainer": "Trainer",
    "trl": "TRL",
    "lightning": "Lightning",
    "accelerate": "accelerate",
}
FOUND, SAME = "found", "·"


def generated() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {
        "checks.md": checks_page(),
        "hosts.md": hosts_page(),
        "recipes.md": recipes_page(),
        "recipe-keys.md": keys_page(),
    }


def checks_page() -> str:
    """Every check with its page, grouped by the room where the fix is made."""
    pages = catalogue.pages()
    lines = [
        *_head("The checks", "the docstrings of `src/sightline/guard/checks`"),
        "What each check claims, how the fault shows, and the setting that mends it. [The guard](guard.md) tells how",
        "they are run; `sightline explain X4` prints a page in the terminal.",
        "",
        "| code | name | claim |",
        "|---|---|---|",
        *(
            f"| {page.code} | [{page.name}](#{page.code.lower()}--{page.name}) | {_cell(page.claim)} |"
            for page in pages
        ),
    ]
    for room, inside in groupby(sorted(pages, key=lambda page: page.room), key=lambda page: page.room):
        lines += ["", f"## {room.capitalize()}"]
        for page in inside:
            lines += ["", *_check(page)]
    return "\n".join(lines) + "\n"


def hosts_page() -> str:
    """Which fault is found in which library's training loop.

    A script in tests/hosts/<host>/ that is marked ``@plants("T4")`` has T4's fault where a flag says so; one in
    tests/hosts/shared/ names the hosts that it is handed to. In a door's module, ``BLIND`` tells which evidence (or
    check, by its code) its host does not show, and why.
    """
    table = list(_table())
    open_ = any(SAME in line for line in table)
    lines = [
        *_head("The hosts", "the faults planted in `tests/hosts` and from the doors in `src/sightline/attach`"),
        "- **found**: the host trains a script that holds the fault where a flag says so. A test sees it found, and no",
        "  error or warning without it.",
        *(["- **·**: the door uses the same hooks as in a PyTorch loop; no script plants the fault here yet."] * open_),
        "- **—**: not visible here, or it cannot happen here; the number tells why.",
        "",
        "Tests also train with and without the guard, and compare the weights to the last bit.",
        "[In another training loop](guard.md#in-another-training-loop) tells how to attach, and",
        "[what only `sightline run` hears](guard.md#what-only-sightline-run-hears) what else a whole script shows.",
        "",
        *table,
    ]
    return "\n".join(lines) + "\n"


def recipes_page() -> str:
    """Every shipped recipe: what it joins, its stages and its sources."""
    lines = [
        *_head("The shipped recipes", "`src/sightline/recipes`"),
        "`sightline train NAME` runs one, `sightline train NAME key=value` changes it first, `sightline check NAME`",
        "tells what can be known before step 1. [Recipes](recipe.md) explains the keys.",
    ]
    for name in shipped():
        lines += ["", *_recipe(load(name))]
    return "\n".join(lines) + "\n"


def keys_page() -> str:
    """Every key of a recipe: type, default and meaning, as the schema has them."""
    lines = [
        *_head("The keys of a recipe", "`src/sightline/recipe/schema.py` and the files beside it"),
        "A recipe is a `Recipe`; a type that is named here is a part with its own table. A key without a default must",
        "be given. [Recipes](recipe.md) says how they work together.",
    ]
    parts = [
        (node, file)
        for file in SCHEMA
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.bases and _fields(node)
    ]
    for part, file in sorted(parts, key=lambda found: found[0].name != "Recipe"):
        inherited = [f"It has the keys of {base}, too." for b in part.bases if (base := ast.unparse(b)) != "Part"]
        lines += ["", f"## {part.name}", "", " ".join([ast.get_docstring(part) or "", *inherited]), ""]
        lines += ["| key | type | default | |", "|---|---|---|---|", *_rows(part, file)]
    return "\n".join(lines) + "\n"


def planted(host: str) -> set[str]:
    """Codes of the faults that scripts of this host plant. In a PyTorch loop every check has its own specimen."""
    if host == "torch_loop":
        return {page.code for page in catalogue.pages()}
    own = {code for code, _ in _marks(host, "test_*.py")}
    return own | {code for code, hosts in _marks("shared", "*.py") if host in hosts}


def _marks(folder: str, files: str) -> Iterator[tuple[str, list[str]]]:
    """Code and hosts of each ``@plants(code, *hosts)`` in a folder of tests/hosts."""
    for file in sorted((ROOT / "tests" / "hosts" / folder).glob(files)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "plants":
                    code, *hosts = (ast.literal_eval(argument) for argument in mark.args)
                    yield code, hosts


def blind(host: str) -> dict[str, str]:
    """What the host's door says that it cannot show: type of evidence, or a check's code -> why."""
    tree = ast.parse((ROOT / "src" / "sightline" / "attach" / f"{host}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if any(ast.unparse(target) == "BLIND" for target in targets) and node.value is not None:
                return dict(ast.literal_eval(node.value))
    return {}


def why_not(page: Page, reasons: dict[str, str]) -> str | None:
    """Why a check has nothing to look at in a host; None where it has."""
    if page.code in reasons:
        return reasons[page.code]
    return next((reasons[need] for need in page.needs if need in reasons), None)


def _table() -> Iterator[str]:
    """The table and the reasons below it, as lines of Markdown."""
    marks, reasons = {host: planted(host) for host in HOSTS}, {host: blind(host) for host in HOSTS}
    notes: dict[str, int] = {}
    yield f"| check | {' | '.join(HOSTS.values())} |"
    yield f"|---|{'---|' * len(HOSTS)}"
    for page in catalogue.pages():
        cells = []
        for host in HOSTS:
            why = why_not(page, reasons[host])
            cells.append(FOUND if page.code in marks[host] else SAME if why is None else _note(why, notes))
        yield f"| [{page.code}](checks.md#{page.code.lower()}--{page.name}) {page.name} | {' | '.join(cells)} |"
    yield ""
    yield from (f"{number}. {why}" for why, number in notes.items())


def _note(why: str, notes: dict[str, int]) -> str:
    return f"— ({notes.setdefault(why, len(notes) + 1)})"


def _head(title: str, source: str) -> list[str]:
    return [f"# {title}", "", NOTICE, "", f"Written from {source}.", ""]


def _check(page: Page) -> Iterator[str]:
    trial = " On trial: its findings are notes." if page.on_trial else ""
    source = f"../src/sightline/guard/checks/{page.room}/{page.path.name}"
    yield from (f"### {page.code} · {page.name}", "", f"**{page.claim}**{trial}", "")
    sections = {"Symptom": page.symptom, "Root cause": page.root_cause, "Fix": page.fix}
    for title, text in {**sections, "Stays silent when": page.silent_when}.items():
        yield f"- **{title}.** {text}"
    needs = ", ".join(f"`{need}`" for need in page.needs)
    yield f"- **Needs** {needs} · [{page.path.name}]({source})"
    yield from ("", "Sources:", "", *(f"- {source}" for source in page.sources))


def _recipe(recipe: Recipe) -> Iterator[str]:
    yield from (f"## {recipe.name}", "", f"{recipe.summary[0].upper()}{recipe.summary[1:]}.", "")
    yield from (f"{_model(recipe)} File: [{recipe.name}.yaml](../src/sightline/recipes/{recipe.name}.yaml).", "")
    yield "| stage | learns | learning rate | length | batch | schedule | weight decay |"
    yield "|---|---|---|---|---|---|---|"
    yield from (_stage(stage) for stage in recipe.stages)
    if recipe.sources:
        yield from ("", "Sources:", "", *(f"- {source}" for source in recipe.sources))


def _model(recipe: Recipe) -> str:
    model = recipe.model
    if model.adopt:
        text = f"Adopts `{model.adopt.source}`."
    elif model.pair:
        vision, language = (_origin(part) for part in (model.pair.vision, model.pair.language))
        text = f"Sets {vision} and {language} side by side"
        text += f"; the last {model.pair.fusion.blocks} blocks look at the image." if model.pair.fusion else "."
    else:
        assert model.compose is not None
        vision, language = (_origin(part) for part in (model.compose.vision, model.compose.language))
        text = f"Joins {vision} and {language} by `{model.compose.connector.kind}`."
    return f"{text} LoRA of rank {model.lora.rank} on {', '.join(model.lora.towers)}." if model.lora else text


def _origin(part: object) -> str:
    source, config = getattr(part, "source", None), getattr(part, "config", None) or {}
    return f"`{source}`" if source else f"a `{config['model_type']}` built from its configuration"


def _stage(stage: Stage) -> str:
    learning = [tower for tower in TOWERS if stage.rule_for(tower) != "none"]
    rules = [stage.rule_for(tower) for tower in learning]
    told = [rule if isinstance(rule, str) else str(rule.model_dump(exclude_none=True)) for rule in rules]
    rates = sorted({stage.rate_for(tower) for tower in learning}, reverse=True)
    length = f"{stage.steps} steps" if stage.steps else f"{stage.epochs:g} epoch{'' if stage.epochs == 1 else 's'}"
    cells = [
        stage.name,
        ", ".join(f"{tower}: {rule}" for tower, rule in zip(learning, told, strict=True)),
        _rate(rates[0]) if len(rates) == 1 else ", ".join(f"{t}: {_rate(stage.rate_for(t))}" for t in learning),
        length,
        str(stage.batch),
        f"{stage.schedule.kind}, warm-up {stage.schedule.warmup:g}",
        _decay(stage.optimizer.weight_decay),
    ]
    return f"| {' | '.join(cells)} |"


def _decay(value: float | dict[Tower, float]) -> str:
    return f"{value:g}" if isinstance(value, float) else ", ".join(f"{t}: {v:g}" for t, v in value.items())


def _rate(value: float) -> str:
    """0.00512 as 5.12e-3, the way learning rates are written."""
    digits, _, exponent = f"{value:e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def _fields(part: ast.ClassDef) -> list[ast.AnnAssign]:
    return [node for node in part.body if isinstance(node, ast.AnnAssign)]


def _rows(part: ast.ClassDef, file: Path) -> Iterator[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    for field in _fields(part):
        kind = _cell(ast.unparse(field.annotation))
        default = f"`{ast.unparse(field.value)}`" if field.value else ""
        line = lines[(field.end_lineno or field.lineno) - 1]
        comment = line[field.end_col_offset or 0 :].strip().removeprefix("#").strip()
        yield f"| `{ast.unparse(field.target)}` | `{kind}` | {default} | {_cell(comment)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for name, text in generated().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/{name}")
