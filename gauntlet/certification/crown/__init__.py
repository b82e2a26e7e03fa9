"""Bounds on the layers of ReLU networks."""
