"""The parts of the report of a run: scores with intervals, examples, pictures of studies, what to do next."""
