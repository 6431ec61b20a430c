"""The web page: a sentence, the ranked images, why they were found; filters, an upload where it is allowed."""
