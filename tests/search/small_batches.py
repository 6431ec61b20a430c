"""The command of search, which indexes eight images at a time: there are many moments to kill it at."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from search.__main__ import main
from search.gallery import indexing

indexing.BATCH = 8
if __name__ == "__main__":
    main()
