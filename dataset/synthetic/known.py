"""What the people of a drawn benchmark have and wear, from the attributes.json that it was written with."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.synthetic.generate import LEGEND
from utils.errors import UserError
from utils.files import read_json

Person = Mapping[str, Any]  # as `Person.describe` writes it


class NotKnown(UserError):
    """What the people of a data set have and wear is not known."""


def read_people(images: Sequence[str], folders: Iterable[Path]) -> list[Person]:
    """The person in each of these images, by the first attributes.json in `folders`.

    images: their names below imgs/, as the annotation file has them. Raises NotKnown when there is no such file, or it
    does not know an image: what people of other data have is not written anywhere.
    """
    tried = list(dict.fromkeys(folder / LEGEND for folder in folders))
    file = next((path for path in tried if path.is_file()), None)
    if file is None:
        raise NotKnown(
            f"what the people of this data have is not known: there is no {tried[0]}, as `python -m dataset.synthetic`"
            " writes it; name a benchmark of it"
        )
    people = people_of(read_json(file, "table of attributes"), file)
    for image in images:
        if image not in people:
            raise NotKnown(f"{file} does not know the image {image}; it is of other data")
    return [people[image] for image in images]


def people_of(content: Any, file: Path) -> dict[str, Person]:
    """The person in each image of a table of attributes. Raises UserError when it is none."""
    try:
        return {image["file_path"]: one["attributes"] for one in content["identities"] for image in one["images"]}
    except (TypeError, KeyError):
        raise UserError(f"{file} is not a table of attributes of `python -m dataset.synthetic`") from None
