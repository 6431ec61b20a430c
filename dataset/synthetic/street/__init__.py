"""Whole frames of a drawn street, with boxes and tracks: what a search in frames can be tried and tested on."""
