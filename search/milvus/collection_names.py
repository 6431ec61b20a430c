"""Names of the collections of a gallery: on a server all galleries share one list of them.

What a gallery is called is an alias on a server. The collection behind it, one that is built beside it, and those that
are there for a while have names that no gallery can have.
"""

import re
from collections.abc import Iterable

RESERVED = "__index_"  # in no name of a gallery


def own_name(collection: str, what: object) -> str:
    """A name that belongs to a gallery; what: a number of the index itself, or what it is there for."""
    return f"{collection}{RESERVED}{what}"


def owner_by_earlier_name(name: str, aliases: Iterable[str]) -> str:
    """The gallery, out of the aliases of a collection, for which an earlier version called it this; "" for none.

    It added a number, which the name of another gallery may end in as well.
    """
    return next((alias for alias in aliases if re.fullmatch(rf"{re.escape(alias)}_[0-9]+", name)), "")
