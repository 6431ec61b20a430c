"""Encoders, fusion, decoder, losses, and the person search model that wires them."""
