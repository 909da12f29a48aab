"""Towers from `transformers`, connectors, the VLM that joins them, existing VLMs, and adapters."""
