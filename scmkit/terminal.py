"""Text of strangers on a terminal: names out of files and packages may hold codes that control it."""

import sys

from scmkit.telling import Unfailing


def printable(text: str) -> str:
    """Text on one line, in which what is no visible character is escaped (`\\x1b`, `\\n`, `\\u202e`)."""
    # Of what json.dumps leaves, only DEL is escaped here, and in the form that JSON reads.
    text = text.replace("\x7f", "\\u007f")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def say(text: str) -> None:
    """One line on stderr; where that cannot be written, nobody is told and the work goes on."""
    print(printable(text), file=Unfailing(sys.stderr), flush=True)
