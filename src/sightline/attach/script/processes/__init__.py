"""The processes of one script: those it starts, its ranks, what they call together, one report of all."""
