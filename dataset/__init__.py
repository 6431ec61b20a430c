"""Annotations, captions, attributes, images, batches, and the synthetic benchmark."""
