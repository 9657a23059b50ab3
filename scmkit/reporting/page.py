"""The page around the sections: one file, which may fetch nothing."""

from collections.abc import Sequence
from importlib.resources import files

from scmkit.reporting.markup import Html, element, join
from scmkit.reporting.section import Section

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The content security policy: the page shows what is in it, and fetches nothing."""


def page(title: str, subtitle: str, sections: Sequence[Section]) -> Html:
    """The document, with links to its sections at the top."""
    links = [element("a", s.title, href=f"#{s.anchor}") for s in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", _asset("page.css")),
    )
    header = element(
        "header",
        element("h1", title),
        element("p", subtitle, class_="lede"),
        element("nav", *links),
    )
    body = element(
        "body",
        header,
        element("main", *(s.html() for s in sections)),
        element("script", _asset("flow.js")),
    )
    return join(Html("<!doctype html>\n"), element("html", head, body, lang="en"), Html("\n"))


def _asset(name: str) -> Html:
    """A file of this package, which is trusted as it is."""
    return Html(files("scmkit.reporting").joinpath(name).read_text(encoding="utf-8"))
