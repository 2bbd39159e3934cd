"""Tests of what a GPU does differently: ``make gpu``, or ``python -m tests.gpu``."""
