"""Experiment statistics as pure functions of moments and arrays; knows nothing of the rest of the project."""
