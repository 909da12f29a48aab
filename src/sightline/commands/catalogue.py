"""`sightline recipes`, `checks` and `explain`: what Sightline knows, told without loading torch.

`rich` is imported for tables alone: a page needs none, and should come at once.
"""

from __future__ import annotations

import shutil
import sys
import textwrap

import typer

from sightline.errors import UserError, nearest
from sightline.guard import catalogue
from sightline.recipe.shipped import shipped

WIDEST = 110  # characters in a line: longer ones are hard to read


def recipes() -> None:
    """Print the shipped recipes."""
    from sightline.commands.terminal import table

    table(("recipe", "what it trains"), sorted(shipped().items()))


def checks(word: str | None) -> None:
    """Print the checks, or those whose page has `word`."""
    pages = catalogue.search(word) if word else catalogue.pages()
    if not pages:
        raise UserError(f"no check's page has '{word}'", fix=_hint(word or ""))
    _list(pages)


def explain(key: str) -> None:
    """Print the page of the check with this code, name or word; where several pages have the word, list them."""
    pages = catalogue.search(key)
    if not pages:
        raise UserError(f"no check is called '{key}', and no page has this word", fix=_hint(key))
    if len(pages) == 1:
        typer.echo(_wrapped(pages[0].text))
        return
    _list(pages)
    typer.echo(f"\n{len(pages)} pages have '{key}'; show one with e.g. `sightline explain {pages[0].code}`")


def _list(pages: tuple[catalogue.Page, ...]) -> None:
    from sightline.commands.terminal import table

    rows = [(page.code, page.name, page.room, page.claim + (" (on trial)" if page.on_trial else "")) for page in pages]
    table(("code", "check", "room", "claim"), rows)


def _wrapped(text: str) -> str:
    """Long lines broken between words for a terminal; as they are for a file or a pipe."""
    if not sys.stdout.isatty():
        return text
    width = min(WIDEST, shutil.get_terminal_size().columns)
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in text.split("\n"))


def _hint(key: str) -> str:
    names = [page.name for page in catalogue.pages()] + [page.code for page in catalogue.pages()]
    hint = nearest(key, names)
    return hint if hint.startswith("did you mean") else "see `sightline checks`"
