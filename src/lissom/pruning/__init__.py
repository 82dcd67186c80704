"""Which channels go, what that costs the layers that read them, and how those are repaired."""
