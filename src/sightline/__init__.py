"""Sightline trains vision-language models from recipes, and guards training runs against silent mistraining.

import sightline

with sightline.attach(model, optimizer):
    ...  # your own loop, unchanged
"""

from sightline import attach as attach
from sightline.errors import UserError as UserError
from sightline.guard.watch import GuardError as GuardError

__version__ = "0.1.0"
