"""Benchmarks of meterd: `python -m benchmarks`. Every line is a ratio or a figure from one run on one machine."""
