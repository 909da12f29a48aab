"""VQA accuracy by the rules in use, from answers or from files. Nothing here needs torch."""

from sightline.evaluate.vqa.rules import RULES, Rule
from sightline.evaluate.vqa.score import VqaScore, score_vqa

__all__ = ["RULES", "Rule", "VqaScore", "score_vqa"]
