"""The phases of a step, one file each: what a recorder does when the host goes forward, backward, steps, evaluates."""
