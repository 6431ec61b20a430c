"""Where a gallery is: a folder, or a Milvus server and the plain files that belong to it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlunsplit

from search.files.names import INDEX, LOCK, MANIFEST
from search.files.storage import Storage, is_url, open_storage, split_url
from search.milvus.client import is_server
from search.milvus.collection_names import RESERVED
from search.milvus.login import require_no_login
from utils.errors import UserError
from utils.files import named_path, require_writable_folder
from utils.paths import is_text, printable

COLLECTION = "gallery"


@dataclass(frozen=True)
class Address:
    """Where a gallery is.

    name: as it was given; uri and collection: of its index; folder: of this machine's own files, such as what a page
    shows; files: where its plain files are, a path or a URL.
    """

    name: str
    uri: str
    collection: str
    folder: Path
    files: str

    @classmethod
    def parse(cls, name: str, files: str | None = None) -> "Address":
        """A folder, or a Milvus server: http://host:port, or http://host:port/NAME for one of several galleries on it.

        files: where the plain files of a gallery on a server are, if not in a folder named after it.

        Raises UserError.
        """
        if not is_server(name):
            return cls.of_folder(name, files)
        parts = split_url(name, "--gallery")
        require_no_login(parts)
        collection = parts.path.strip("/") or COLLECTION
        if not parts.hostname or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", collection):
            raise UserError(f"--gallery {name}: give http://host:port or http://host:port/NAME (letters, digits and _)")
        if RESERVED in collection:
            raise UserError(f"--gallery {name}: names with {RESERVED} are those of indices themselves; name it without")
        uri = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        folder = Path(f"{parts.hostname}-{parts.port or 19530}-{collection}")
        if files is not None and not is_url(files):
            folder = named_path(files, "--files")
        return cls(name, uri, collection, folder, str(folder) if files is None else files)

    @classmethod
    def of_folder(cls, name: str, files: str | None) -> "Address":
        if is_url(name):
            raise UserError(
                f"--gallery {printable(name)}: a gallery is a folder, or a Milvus server (http://host:port) whose"
                f" plain files may be there: --files {printable(name)}"
            )
        folder = named_path(name, "--gallery")
        if not is_text(name):
            raise UserError(f"--gallery {printable(name)}: its name is not UTF-8; name another")
        if files is not None:
            raise UserError("--files is of a gallery on a Milvus server; that of a folder has all in its folder")
        return cls(name, str(folder / INDEX), COLLECTION, folder, str(folder))

    @property
    def is_server(self) -> bool:
        return is_server(self.uri)

    def storage(self) -> Storage:
        """Its plain files. Raises UserError when they are out of reach."""
        return open_storage(self.files, "--files") if is_url(self.files) else open_storage(str(self.folder), "--files")

    def exists(self) -> bool:
        """Whether there is a gallery."""
        return self.storage().exists(MANIFEST)

    def missing(self) -> UserError:
        """The error that there is no gallery there."""
        files = f" --files {self.files}" if self.is_server and self.files != str(self.folder) else ""
        return UserError(
            f"there is no gallery {self.name}{f' with files in {self.files}' if files else ''}; make it:"
            f" python -m search index FOLDER --gallery {self.name}{files} --checkpoint C"
        )


def require_gallery_folder(address: Address, create_missing: bool) -> None:
    """Raises UserError unless the files are those of a gallery, or one can be made there; nothing is written yet."""
    if is_url(address.files):
        address.storage().require_writable("--files")
        if not create_missing and not address.exists():
            raise address.missing()
        return
    folder = address.folder
    if address.exists():
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(
                f"gallery {folder} cannot be written (a read-only disk, or no permission), but its lock and its index"
                " are written whenever it is opened; copy it to where you may write"
            )
        return
    if not create_missing:
        raise address.missing()
    require_writable_folder(folder, "--gallery")
    ours = (LOCK, f".{MANIFEST}.")  # of a process that is about to make a gallery there
    if folder.is_dir() and not all(entry.name.startswith(ours) for entry in folder.iterdir()):
        raise UserError(f"--gallery {folder} holds something else; name a new folder")
