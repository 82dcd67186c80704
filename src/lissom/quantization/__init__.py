"""Weights as integers times a step: the quantizer, its gradients, and what a coder will charge."""
