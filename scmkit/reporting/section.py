"""Sections of a page."""

from dataclasses import dataclass

from scmkit.reporting.markup import Html, element


class Missing(Exception):
    """Why a section has nothing to show."""


@dataclass(frozen=True)
class Section:
    """A heading, what to look for below it, and the content."""

    title: str
    lede: str
    body: Html

    @property
    def anchor(self) -> str:
        """The fragment by which links name it."""
        return self.title.lower().replace(" ", "-")

    def html(self) -> Html:
        """The section as an element."""
        return element(
            "section",
            element("h2", self.title),
            element("p", self.lede, class_="lede"),
            self.body,
            id=self.anchor,
        )
