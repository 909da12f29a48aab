"""The losses of a script: what they begin from, what they are made of, and by which it judges."""
