"""Planning: what a run will need before it runs."""
