"""lissom."""
