"""Everything that touches ranks."""
