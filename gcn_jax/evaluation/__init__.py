"""Computes the scores of a model on a split of data."""
