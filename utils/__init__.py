"""What any training project has: config loading, distributed runs, checkpoint files, logging."""
