"""What a search returns, and the forms in which it is written."""
