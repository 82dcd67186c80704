"""``python -m lissom``: the same as the command ``lissom``."""

from lissom.cli import main

main()
