"""Datasets, their official splits, and everything done to an image."""
