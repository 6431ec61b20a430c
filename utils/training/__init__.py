"""A training run, whatever the model: optimizer, steps, where it stands, its log."""
