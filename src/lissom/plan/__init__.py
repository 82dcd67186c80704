"""What was decided: frozen data, and the one place that builds or slices layers."""
