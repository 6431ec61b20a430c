"""Checkpoint files: written whole or not at all, read without running anything they hold, hostile ones included."""
