"""Benchmarks: `python -m bench` lists them. They start the real service beside its twin."""
