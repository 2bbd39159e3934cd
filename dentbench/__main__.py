"""The command ``dentbench``, and ``python -m dentbench``."""

from __future__ import annotations

from dentbench.cli import signals


def main() -> None:
    """Load the command line and run it."""
    signals.at_once()
    from dentbench.cli import app  # late: it loads libraries

    app.main()


if __name__ == "__main__":
    main()
