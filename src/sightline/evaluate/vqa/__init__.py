"""VQA accuracy by the rules in use, from answers or from files. Nothing here needs torch."""

from sightline.evaluate.vqa.rules import RULES, Rule

__all__ = ["RULES", "Rule"]
