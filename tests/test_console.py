"""The terminal shows what users wrote as it is."""

import pytest

from judgetrace.console import open_console, print_place


def test_a_place_is_shown_as_it_is_and_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    place = "s3://bucket/[bold]:smile:/" + "long/" * 60
    print_place(open_console(), "Annotations of [red]a:cat:", place)
    assert capsys.readouterr().out == f"Annotations of [red]a:cat:: {place}\n"
