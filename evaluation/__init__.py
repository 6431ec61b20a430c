"""Metrics, ranking sheets and reports of a trained model. Knows nothing of training."""
