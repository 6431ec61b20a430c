"""The search index of a gallery: Milvus, embedded or a server."""
