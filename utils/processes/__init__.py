"""Processes: distributed training, launch, loader processes, signals."""
