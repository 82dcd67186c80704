"""Training, recovery and evaluation: one loop for everything."""
