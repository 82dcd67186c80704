"""Differentiable stand-ins for layers, what they cost, and the way back to plain ones."""
