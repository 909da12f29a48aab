"""A script's own functions that score predictions: noticed, copied, and asked what they think of the truth."""
