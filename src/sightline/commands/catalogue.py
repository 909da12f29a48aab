"""`sightline recipes`, `checks` and `explain`: what Sightline knows, told without loading torch."""

from __future__ import annotations

from sightline.commands.terminal import say, table
from sightline.errors import UserError, nearest
from sightline.guard import catalogue
from sightline.recipe.shipped import shipped


def recipes() -> None:
    """Print the shipped recipes."""
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
        say(pages[0].text)
        return
    _list(pages)
    say("", f"{len(pages)} pages have '{key}'; show one with e.g. `sightline explain {pages[0].code}`")


def _list(pages: tuple[catalogue.Page, ...]) -> None:
    rows = [(page.code, page.name, page.room, page.claim + (" (on trial)" if page.on_trial else "")) for page in pages]
    table(("code", "check", "room", "claim"), rows)


def _hint(key: str) -> str:
    names = [page.name for page in catalogue.pages()] + [page.code for page in catalogue.pages()]
    hint = nearest(key, names)
    return hint if hint.startswith("did you mean") else "see `sightline checks`"
