"""``python -m lissom.cli``."""

from lissom.cli import main

main()
