"""Probes: the only code of the guard that runs a live model. Each does something small and leaves no trace.

A probe is a function ``(call: Call, ...) -> one kind of evidence, or None where it does not apply``. Everything it does
to the model happens inside ``with untouched(call.model):``, which restores it bit for bit, also after an exception.
"""
