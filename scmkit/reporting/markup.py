"""HTML that is safe by construction: what is not `Html` is text, and escaped."""

from html import escape
from typing import Any

VOID = {"img", "input", "meta"}
"""Elements without an end tag."""


class Html(str):
    """Markup. A plain string beside it is text: names and options come from strangers."""

    __slots__ = ()


def text(content: str) -> Html:
    """`content` as markup: itself if it is `Html`, else escaped."""
    return content if isinstance(content, Html) else Html(escape(content))


def join(*parts: str | None, by: str = "") -> Html:
    """Parts one after another; None is left out."""
    return Html(by.join(text(part) for part in parts if part is not None))


def element(tag: str, *children: str | None, **attributes: Any) -> Html:
    """An element of HTML or SVG.

    In names of attributes `_` stands for `-`, and at the end for nothing (`class_`). Attributes that are
    None or False are left out, True is one without a value.
    """
    given = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.removesuffix("_").replace("_", "-")
        given.append(f" {name}" if value is True else f' {name}="{escape(str(value))}"')
    start = f"<{tag}{''.join(given)}>"
    return Html(start if tag in VOID else f"{start}{join(*children)}</{tag}>")


def table(head: list[str], rows: list[list[str]], **attributes: Any) -> Html:
    """A table whose first column names the rows."""
    cells = [
        element("tr", element("th", row[0], scope="row"), *(element("td", c) for c in row[1:]))
        for row in rows
    ]
    columns = element("tr", *(element("th", name, scope="col") for name in head))
    body = element("table", element("thead", columns), element("tbody", *cells), **attributes)
    return element("div", body, class_="scroll")
