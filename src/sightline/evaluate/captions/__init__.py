"""Caption scores: what a model said of images against what people said."""

from sightline.evaluate.captions.score import CaptionScore, score_captions

__all__ = ["CaptionScore", "score_captions"]
