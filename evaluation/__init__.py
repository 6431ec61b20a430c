"""Evaluation of trained models: search in two stages, metrics, results, studies and their pictures.

Knows nothing of training, but for the ablation study, which starts the driver.
"""
