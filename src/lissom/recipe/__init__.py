"""Recipes: what a run is asked for, from YAML and the command line, checked before it starts."""
