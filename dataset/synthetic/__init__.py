"""A synthetic person-search benchmark: drawn pedestrians with known attributes, captions and masks.

`python -m dataset.synthetic ROOT` writes it in the raw form of CUHK-PEDES.
"""
