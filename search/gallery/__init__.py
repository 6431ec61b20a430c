"""Galleries: opened, brought in line with their images, filtered and searched by embedding."""
