"""What decide_again refuses before it needs a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import decide_again
from judgetrace.config import UserError
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder


def test_draws_that_were_told_their_labels_are_not_judged_by_those_of_another_corpus(tmp_path: Path) -> None:
    about = {"product": "traces", "corpus": "corpora/x", "config": {"hint": {"enabled": True}}}
    RunFolder(Folder(str(tmp_path / "run"))).claim(0.0, about)
    config = tmp_path / "again.toml"
    config.write_text(f'run = "{tmp_path}/run"\noutput = "{tmp_path}/again"\ncorpus = "corpora/y"\n')
    with pytest.raises(UserError, match=r"were told the labels of its own corpus(.|\n)*leave `corpus` out"):
        decide_again.main([str(config)])
