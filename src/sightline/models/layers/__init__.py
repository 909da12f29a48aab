"""What the layers of cross-attention connectors are made of: norms, dropout, a Q-Former's own, and how they start.

The recipe's `connector.layers` and `connector.start` choose among them.
"""
