"""Timings: run by ``make bench``, never by the tests, and no test depends on it."""
