"""Sensitivities + prices + budget -> what to do with each unit. Prices come as arguments."""
