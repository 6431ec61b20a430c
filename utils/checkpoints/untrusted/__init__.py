"""Checkpoint files of unknown origin: what one holds is known before torch reads it.

`torch.load(weights_only=True)` runs no code, but a file of a kilobyte can still make it allocate terabytes, hash a key
for ever, or replace the methods of a tensor. So a file is first read here, by a reader of the few pickle opcodes and
functions that torch.save writes, which calls and allocates nothing, and of the plainest form of its zip archives.

The obvious alternative is torch.load in a child process with limits of memory and time, which hands back tensors. It
was built as a prototype (80 lines, 710 here; limits of address space, CPU and time; tensors handed back through a
memory file) and read the 101 hostile files of tests/faults and a sound one of 4.3 GB on two cores:

                        this reader       in a child
    hostile, refused    101               88; 13 were loaded, among them those that replace methods
    of these, slowest   2.3 s, 55 MB      4 ran into the limits of time, up to 63 s, and one crashed the child
    sound, 4.3 GB       8 s, 4.6 GB       8 to 12 s, 4.7 GB in the child and 4.3 GB handed back
    any file, more      milliseconds      1.5 to 3 s and 0.5 GB, to import torch once more

A child also needs its limit of memory guessed from the size of the file, and `values.require_plain` all the same.

checks.py          the two formats of torch.save: what must be true of a file
archive.py         the zip archive of the newer one
pickle_reader.py   the opcodes of a pickle
pickle_values.py   what a pickle may hold and call
script_reader.py   the pickle of a TorchScript archive, whose tensors utils/checkpoints/torchscript.py reads
refusal.py         the sentences in which a file is refused
"""

from utils.checkpoints.untrusted.checks import PlainFile, require_sound
from utils.checkpoints.untrusted.refusal import NOT_PLAIN, Refused, damaged

__all__ = ["NOT_PLAIN", "PlainFile", "Refused", "damaged", "require_sound"]
