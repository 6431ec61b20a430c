"""Work dealt to processes, so that none waits long for the others."""

from collections.abc import Sequence


def deal(work: Sequence[int], owners: Sequence[int], processes: int) -> list[int]:
    """Which process does each piece of work: its owner, or, where owners have unequal shares, another one.

    From the process with most work one piece after the other goes to the one with least, as long as that evens them
    out. The same on all processes.
    """
    takers = list(owners)
    pieces: list[list[int]] = [[] for _ in range(processes)]
    for piece, owner in enumerate(owners):
        pieces[owner].append(piece)
    loads = [sum(work[piece] for piece in own) for own in pieces]
    while True:
        most, least = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[most] - loads[least]
        movable = [piece for piece in pieces[most] if 0 < work[piece] < gap]
        if not movable:
            return takers
        moved = min(movable, key=lambda piece: abs(gap - 2 * work[piece]))
        pieces[most].remove(moved)
        pieces[least].append(moved)
        loads[most] -= work[moved]
        loads[least] += work[moved]
        takers[moved] = least
