"""What a job says to a person in the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress

from rich.console import Console
from rich.markup import escape


def open_console() -> Console:
    """Open the terminal; what users wrote is shown as it is: no colours for its numbers, no emoji for its `:name:`."""
    return Console(highlight=False, emoji=False)


def print_place(console: Console, what: str, place: str) -> None:
    """Print where something is, on a line of its own that is never broken: a path can be copied."""
    console.print(f"{escape(what)}: [bold]{escape(place)}[/]", soft_wrap=True)


def say(text: str, end: str = "\n") -> None:
    """Say on standard error how a job stands. Where the log's disk is full nobody hears it, and the job goes on."""
    with suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)
