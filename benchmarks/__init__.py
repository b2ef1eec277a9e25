"""Measurements against the tools that a user would pick instead; benchmarks/README.md lists them."""
