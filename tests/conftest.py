"""Shared by all tests: pytest's own test harness."""

pytest_plugins = ["pytester"]
