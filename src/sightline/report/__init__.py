"""A run directory becomes one self-contained page. Reads files only; imports nothing that trains or judges."""
