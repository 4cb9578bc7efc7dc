"""What the ratings of a run are of: which corpus, held against the one that agreement is measured on, which dimensions.

A run over the same items with another target rule is a legitimate rater; one on another scale is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from judgetrace.config import UserError
from judgetrace.corpus import read_finished
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import identify_corpus
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.storage import Folder


def find_foreign_runs(runs: Sequence[str], corpus: str) -> list[str]:
    """Find the runs of ratings over another corpus than this one.

    A folder of annotations without a contract tells nothing of its corpus. Raises UserError for a run on another scale.
    """
    manifest = read_finished(Folder(corpus))[0]
    own, scales = identify_corpus(manifest), ScaleConfig.model_validate(manifest["config"]["scale"])
    foreign = [run for run in runs if _read_corpus_id(run) not in (None, own)]
    for run in foreign:
        theirs = _read_scales(run)
        for name, one, two in _list_differing(scales, theirs) if theirs else ():
            raise UserError(
                f"raters: {run}: rated another corpus than {corpus}, on another scale{name and f' of {name!r}'}\n"
                f"found: {_describe(two)}; expected: {_describe(one)}\n"
                "give runs of rate_items over this corpus, or the corpus that this run rated"
            )
    return foreign


def _read_corpus_id(run: str) -> str | None:
    folder = Folder(run)
    return folder.read_json("contract.json").get("corpus") if folder.exists("contract.json") else None


def _read_scales(run: str) -> ScaleConfig | None:
    """Read the scales that a run was asked on, or the run that it recalibrates; None where neither tells."""
    folder = RunFolder(Folder(run))
    newest = folder.newest_driver()
    if newest >= 0:
        scales = folder.read_driver(newest).get("scale")
        return None if scales is None else ScaleConfig.model_validate(scales)
    ratings = folder.folder.read_json("manifest.json")["config"].get("ratings") if folder.has_manifest() else None
    return None if ratings is None else _read_scales(ratings)


def read_asked_dimensions(run: str) -> tuple[str, ...]:
    """Read the dimensions that a run of ratings asked about, or the run that it recalibrates; none: of all of them.

    None, too, for a folder that tells nothing of it.
    """
    folder = RunFolder(Folder(run))
    contract = folder.folder.read_json("contract.json") if folder.folder.exists("contract.json") else {}
    if contract.get("job") == "recalibrate_rater" and folder.has_manifest():
        contract = folder.folder.read_json("manifest.json").get("inputs", {}).get("contract", {})
    return tuple(contract.get("dimensions") or ())


def _list_differing(own: ScaleConfig, theirs: ScaleConfig) -> list[tuple[str, Scale, Scale]]:
    """List (dimension, own, theirs) of the scales that both have and that differ; "" is what has none of its own."""
    both = [(name, own.of(name), theirs.of(name)) for name in sorted({"", *own.dimensions, *theirs.dimensions})]
    return [(name, one, two) for name, one, two in both if one is not None and two is not None and one != two]


def _describe(scale: Scale) -> str:
    return f"{', '.join(scale.values)} ({scale.type})"
