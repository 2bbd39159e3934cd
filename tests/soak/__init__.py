"""Reliability, the long way: ``make soak``; short forms of the same are among the tests."""
