"""The HTTP API of a gallery."""
