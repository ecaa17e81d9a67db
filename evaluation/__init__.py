"""Evaluate a trained generator: python -m evaluation RUN."""
