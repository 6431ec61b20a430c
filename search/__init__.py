"""A gallery of one's own photos, searched by text.

from search import Encoder, Searcher, explain, index, open_gallery

encoder = Encoder.open("output/demo/checkpoint_best.pth")
with open_gallery("gallery", encoder, "photos") as gallery:
    index(gallery, encoder)
    hits = Searcher(encoder, gallery).search("a woman in a red coat").hits
    why = explain(Searcher(encoder, gallery), "a woman in a red coat", hits[0].path)
"""

from search.encoder import Encoder
from search.explain import explain
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.searcher import Searcher

from_pretrained = Encoder.open

__all__ = ["Encoder", "Searcher", "explain", "from_pretrained", "index", "open_gallery"]
