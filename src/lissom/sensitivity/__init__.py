"""The harm of compressing one unit, on one scale for all families; and the statistics behind it."""
