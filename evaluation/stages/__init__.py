"""The two stages of a search over a gallery: similarity of embeddings, then re-ranking by fusion."""
