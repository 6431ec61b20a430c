"""Searches that wait are computed together."""
