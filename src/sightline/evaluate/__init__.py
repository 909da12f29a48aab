"""Evaluation: what a trained model answers, how often that is right, and what it would be worth without looking."""
