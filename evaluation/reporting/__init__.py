"""The parts of the report of a run: scores with intervals, and examples."""
