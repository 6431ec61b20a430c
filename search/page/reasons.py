"""Why an image was found, as the page shows it: a bar for each attribute, and heat maps."""

import html

from PIL import Image

from search.explain import Explanation, overlay
from search.page.hits import Pictures, pictures_as_html


def why_as_html(found: Explanation, index: int, pictures: Pictures) -> str:
    """All that is told of a hit, and the way back to it; page.js leads who chose it here. index: of the hit, from 0."""
    return (
        f"<h2 tabindex='-1'>Why result {index + 1} was found</h2>{reasons_as_html(found)}"
        f"<h3>Where it is, and where the model looked</h3>{pictures_as_html(pictures)}"
        f"<p><button type='button' class='back' data-index='{index}'>Back to result {index + 1}</button></p>"
    )


def reasons_as_html(found: Explanation) -> str:
    """A bar for each attribute of the sentence."""
    rows = "".join(reason_as_html(*bar) for bar in bars_of(found))
    none = "" if found.attributes else "<p>The sentence names no attribute such as “red coat”.</p>"
    return f"<p class='path'>{html.escape(found.path)}</p><table class='bars'>{rows}</table>{none}"


def bars_of(found: Explanation) -> list[tuple[str, float, str]]:
    """Names, lengths from 0 to 1, and what is written beside them.

    The probabilities of a match; else the cosine, and what each attribute adds to it, as a share of the greatest.
    """
    if found.match is not None:
        shares = [("the whole sentence", found.match), *((one.words, one.match or 0) for one in found.attributes)]
        return [(name, match, f"{match:.0%}") for name, match in shares]
    added = [(one.words, one.similarity or 0) for one in found.attributes]
    most = max([value for _, value in added] + [1e-12])
    cosine = found.similarity or 0
    return [
        ("the whole sentence", max(cosine, 0), f"cosine {cosine:.2f}"),
        *((name, max(value, 0) / most, f"adds {value:.3f}") for name, value in added),
    ]


def reason_as_html(name: str, share: float, note: str) -> str:
    """A row of the table of reasons."""
    return (
        f"<tr><th scope='row'>{html.escape(name)}</th>"
        f"<td class='bar' aria-hidden='true'><div style='width:{100 * share:.0f}%'></div></td><td>{note}</td></tr>"
    )


def heat_pictures(found: Explanation) -> list[tuple[Image.Image, str]]:
    whole = [(overlay(found.image, found.heat), "all words")]
    return whole + [(overlay(found.image, one.heat), one.words) for one in found.attributes]
