"""What recalibrate_rater reads before it starts: the corpus's scales, and which run it recalibrates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from judgetrace.config import UserError
from judgetrace.corpus import read_finished
from judgetrace.fingerprints import hash_text
from judgetrace.ledger import current_shard_files
from judgetrace.recalibration_config import RecalibrateRaterConfig
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import identify_corpus
from judgetrace.scale import ScaleConfig
from judgetrace.splits import SPLITS
from judgetrace.storage import Folder


@dataclass(frozen=True)
class RecalibrationInputs:
    """A rater's annotations, and what is to become of them."""

    annotations: Folder
    shards: tuple[str, ...]  # file names in `annotations`
    scales: ScaleConfig
    rater_id: str  # of the recalibrated rater
    splits: tuple[str, ...]  # to recalibrate
    source_contract: dict[str, Any]
    source_fingerprint: str

    def contract(self, config: RecalibrateRaterConfig) -> dict[str, Any]:
        """Collect what the rows of the new run depend on."""
        return {
            "job": "recalibrate_rater",
            "corpus": self.source_contract["corpus"],
            "ratings.fingerprint": self.source_fingerprint,
            "rater_id": self.rater_id,
            "fit_split": config.fit_split,
            "splits": list(self.splits),
            "min_items": config.min_items,
        }


def find_inputs(config: RecalibrateRaterConfig) -> RecalibrationInputs:
    """Find what a config names. Raises UserError for what can't be used."""
    prepared = read_finished(Folder(config.corpus))[0]
    scales = ScaleConfig.model_validate(prepared["config"]["scale"])
    nominal = scales.list_nominal()
    if nominal:
        raise UserError(
            f"corpus = {config.corpus}: the scale of {nominal[:5]} is nominal: it has no order that a map could keep\n"
            "expected: ordinal or interval scales"
        )
    manifest = _read_source_manifest(config)
    contract: dict[str, Any] = manifest["contract"]
    if contract["corpus"] != identify_corpus(prepared):
        raise UserError(
            f"ratings = {config.ratings}: rates another corpus than {config.corpus}\n"
            "give the corpus that its run of rate_items names"
        )
    rater_id = config.rater_id or f"{contract['rater_id']}-isotonic"
    if rater_id == contract["rater_id"]:
        raise UserError(f"rater_id = {rater_id}: is the rater's own; give the recalibrated one another")
    annotations = Folder(config.ratings) / "annotations"
    return RecalibrationInputs(
        annotations=annotations,
        shards=tuple(current_shard_files(annotations).values()),
        scales=scales,
        rater_id=rater_id,
        splits=_choose_splits(config, contract["splits"] or SPLITS),
        source_contract=contract,
        source_fingerprint=_identify_run(manifest),
    )


def _read_source_manifest(config: RecalibrateRaterConfig) -> dict[str, Any]:
    source = RunFolder(Folder(config.ratings))
    if not source.has_manifest():
        remedy = "run the same command of rate_items again" if source.newest_driver() >= 0 else "run rate_items first"
        raise UserError(f"ratings = {config.ratings}: no complete run there (no manifest.json); {remedy}")
    manifest: dict[str, Any] = source.folder.read_json("manifest.json")
    if manifest.get("job") != "rate_items":
        raise UserError(f"ratings = {config.ratings}: is a run of {manifest.get('job')}; expected one of rate_items")
    return manifest


def _choose_splits(config: RecalibrateRaterConfig, rated: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Choose the splits to recalibrate, in a fixed order, among those that the rater rated."""
    missing = [split for split in (config.fit_split, *config.splits) if split not in rated]
    if missing:
        raise UserError(
            f"ratings = {config.ratings}: the rater rated the splits {list(rated)} alone, not {missing[0]}\n"
            "rate that too (rate_items with `splits`, into another run), or give other splits"
        )
    wanted = config.splits or [split for split in rated if split != config.fit_split]
    if not wanted:
        raise UserError(
            f"ratings = {config.ratings}: the rater rated nothing but the fit split {config.fit_split}\n"
            "rate another split too, or give `splits`"
        )
    return tuple(split for split in SPLITS if split in wanted)


def _identify_run(manifest: dict[str, Any]) -> str:
    """Fingerprint a run by its contract and counts: a call with nothing to do writes its manifest with other times."""
    return hash_text(json.dumps([manifest["contract"], manifest["units"], manifest["tally"]], sort_keys=True))
