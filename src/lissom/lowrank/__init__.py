"""Weights as products of smaller ones: the mathematics, and how ranks are chosen."""
