"""Serving: a trained run in use."""
