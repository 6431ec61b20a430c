"""What one GPU does with training and evaluation: `python -m benchmarks.gpu`."""
