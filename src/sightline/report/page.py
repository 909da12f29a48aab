"""The page of a run: one file that holds everything it shows and asks the network for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sightline.atomic import write_text
from sightline.errors import UserError
from sightline.report import format, tables
from sightline.report.attack_figures import attack_figures
from sightline.report.heat import heat_figures
from sightline.report.looking import points
from sightline.report.plots import colour, figures, plain, stage_starts
from sightline.report.read import read_run
from sightline.report.terms import term_figures
from sightline.report.values import RunSeen
from sightline.report.words import verdict

if TYPE_CHECKING:
    from jinja2 import Environment

NAME = "report.html"


def write_report(run: Path) -> Path:
    """Read a run directory and write its `report.html`. The same files give the same page, byte for byte.

    Raises:
        UserError: `run` is no run directory, or the page cannot be written into it.
    """
    run = Path(run)
    page = render(read_run(run))
    target = run / NAME
    try:
        write_text(
            target, page.encode("utf-8", errors="replace").decode("utf-8")
        )  # JSON may hold half a surrogate pair
    except OSError as error:
        raise UserError(
            f"the page could not be written: {error.strerror or error}",
            where=str(target),
            fix="make room or make the folder writable, then 'sightline report' again",
        ) from error
    return target


def render(run: RunSeen) -> str:
    """The page as HTML."""
    environment = _environment()
    drawn = figures(run.history)
    drawn[1:1] = term_figures(run.history.train)  # behind the total
    attacks = attack_figures(run.robustness) if run.robustness else []
    heat = heat_figures(run.history)
    return environment.get_template("page.html.j2").render(
        run=run,
        verdict=verdict(run),
        figures=drawn,
        attacks=attacks,
        heat=heat,
        drawing=[
            {"id": figure.id, "data": figure.data, "layout": figure.layout, "linked": figure.linked}
            for figure in (*drawn, *heat, *attacks)
        ],
        stage_marks=[
            {"label": f"{place} {plain(name)}", "steps": end - start}
            for place, (name, start, end) in enumerate(stage_starts(run.history.train), start=1)
        ],
        plotly=_plotly() if drawn or heat or attacks else "",
        bars=tables.bars(run.evaluation) if run.evaluation else [],
        duration=tables.duration(run),
        progress=tables.progress(run),
        stages=tables.stage_numbers(run.history),
        towers=tables.towers(run.facts),
        learning=[(stage, tables.learning(stage, run.facts)) for stage in run.facts.stages],
        memory=tables.memory(run.facts),
        phases=tables.phases(run.facts),
        skipped=tables.skipped_by_reason(run.facts),
    )


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("sightline.report")
    environment = Environment(
        loader=loader,
        autoescape=True,  # questions, errors and file names are text, whatever they hold
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    writers = (
        format.whole, format.short, format.percent, format.number, format.scientific, format.seconds, format.size,
        format.date, format.plural,
    )  # fmt: skip
    environment.filters["points"] = points
    environment.filters.update({writer.__name__: writer for writer in writers})
    environment.filters["colour"] = lambda tower: f"var(--{colour(tower)[1:]})"

    def asset(name: str) -> Markup:
        """A style sheet or script of ours, put into the page as it is."""
        return Markup(loader.get_source(environment, name)[0])

    environment.globals["asset"] = asset
    return environment


def _plotly() -> str:
    """plotly.js, safe inside a script element."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script").replace("<!--", "<\\!--"))
