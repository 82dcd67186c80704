"""The published methods; each reads like its paper."""
