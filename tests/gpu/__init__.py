"""What a GPU does differently, run on one: ``make gpu``, or ``python -m tests.gpu``."""
