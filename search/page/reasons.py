"""Why an image was found, as the page shows it: a bar for each attribute, and heat maps."""

import html

from PIL import Image

from search.explain import Explanation, overlay


def reasons_as_html(found: Explanation) -> str:
    """A bar for each attribute of the sentence."""
    rows = "".join(reason_as_html(*bar) for bar in bars_of(found))
    none = "" if found.attributes else "<p>The sentence names no attribute such as “red coat”.</p>"
    return f"<p>{html.escape(found.path)}</p><table>{rows}</table>{none}"


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
        f"<tr><td style='padding:2px 12px 2px 0'>{html.escape(name)}</td><td style='width:240px;background:#8883'>"
        f"<div style='width:{100 * share:.0f}%;background:#0072b2;height:14px'></div></td>"
        f"<td style='padding-left:8px'>{note}</td></tr>"
    )


def heat_pictures(found: Explanation) -> list[tuple[Image.Image, str]]:
    whole = [(overlay(found.image, found.heat), "all words")]
    return whole + [(overlay(found.image, one.heat), one.words) for one in found.attributes]
