"""A connector that nothing ever taught and that stays as it is, while the language model learns to live with it.

And what was to be frozen, or to learn, by a name that no parameter has; and what was taught elsewhere,
was loaded, and is again as an initialiser draws it.
"""

from __future__ import annotations

from sightline.guard.evidence.setup import Setup
from sightline.guard.evidence.strays import Stray

WHOLE = 0.5  # of the language tower: it learns as a whole, not by adapters


def untaught(setup: Setup) -> Stray | None:
    """The connector, where it is frozen with the values that an initialiser of this process drew; or what is again so.

    Of demonstrations in which all is random and adapters alone learn it says nothing.
    """
    if lost := setup.undone:
        what = f"{len(lost)} matrices were loaded, and drawn anew before the model was made, e.g. {lost[0]}"
        return Stray(what, "initialise the new parts alone, or load after it", seen={"drawn anew": lost[:5]})
    if unmet := setup.unmatched:
        what = f"no parameter met the script's condition `{unmet[0][:100]}`, so that requires_grad stayed as it was"
        remedy = "compare with the names of model.named_parameters(), or call requires_grad_ on the module"
        return Stray(what, remedy, seen={"conditions": list(unmet)})
    connector, language = setup.towers.get("connector"), setup.towers.get("language")
    if connector is None or language is None or connector.planned is not None or not connector.untaught:
        return None
    learning = language.trainable - language.adapters
    if connector.trainable or not learning >= WHOLE * language.parameters > 0:
        return None
    what = "tower 'connector' is frozen with its random initial values, while the language tower learns"
    remedy = "set requires_grad to True in 'connector', or load what it learnt before"
    return Stray(what, remedy, seen={"frozen as it was made": connector.untaught, "language learns": learning})
