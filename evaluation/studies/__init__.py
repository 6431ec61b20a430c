"""Studies of trained models: each asks one question and leaves a picture, a table and its numbers."""
