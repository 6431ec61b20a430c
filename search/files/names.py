"""What the parts of a gallery are called in its folder."""

MANIFEST = "gallery.json"  # which model made it, and of which images
RECORDS = "records"  # embeddings and metadata
INDEX = "index.db"  # of Milvus Lite
PAGE = "page"  # what the page writes while it is served
LOCK = ".lock"
