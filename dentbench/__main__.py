"""``python -m dentbench``."""

from dentbench.cli.app import main

main()
