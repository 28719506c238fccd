"""The connection to a Qdrant server: its address, the requests that a store makes, and errors with one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from facespace.errors import GalleryError
from facespace.io.text import first_line, one_line

try:
    import httpx
    from qdrant_client import QdrantClient, models as models
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse
except ImportError as error:  # pragma: no cover - the extra is installed where this is tested
    raise GalleryError(
        f"galleries at qdrant:// need the extra qdrant: pip install 'facespace[qdrant]' ({error})"
    ) from None

KEY_VARIABLE = "FACESPACE_QDRANT_API_KEY"
_OLDEST = (1, 17)  # the first server with `insert_only`; older servers ignore it, and would overwrite points
_PAGE = 1000  # points of one answer
_BATCH = 500  # points of one write request
_PROBES = 64  # of one search request
_MIN_CANDIDATES = 256
_CANDIDATES_PER_MILLION = 2000  # as in `people_index`, whose sketches have as many bits


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server with its options.

    `replicas` is the number of nodes that store each point of a new collection. `quantize` says whether a search first
    compares vectors of one bit per dimension and then compares the best of them exactly; `timeout` is the time limit of
    a request in seconds.
    """

    url: str
    name: str
    tls: bool
    replicas: int = 1
    quantize: bool = False
    timeout: int = 20


def parse_address(address: str) -> Address:
    """Parse an address such as `qdrant://host:6333` or `qdrants://host:6333?replicas=3&quantize=binary&timeout=60`.

    Raise `GalleryError` for anything else, also for an address with a password, because addresses are printed.

    >>> parse_address("qdrants://faces.example.org?replicas=3")
    Address(url='https://faces.example.org:6333', name='qdrants://faces.example.org:6333', tls=True, replicas=3, quantize=False, timeout=20)
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or 6333
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise GalleryError(f"{one_line(address)[:200]}: not an address ({first_line(error)})") from None
    if parts.username is not None or parts.password is not None:
        raise GalleryError(f"qdrant://{host}: an address must not contain a key; put it into {KEY_VARIABLE}")
    if parts.scheme not in ("qdrant", "qdrants") or not host or parts.path.strip("/") or parts.fragment:
        raise GalleryError(f"{one_line(address)[:200]}: an address must be qdrant://host:port or qdrants://host:port")
    shown = f"[{host}]" if ":" in host else host
    name = f"{parts.scheme}://{shown}:{port}"
    given: dict[str, Any] = {}
    for key, value in options.items():
        least, most = {"replicas": (1, 99), "timeout": (1, 3600)}.get(key, (0, 0))
        if key == "quantize" and value == "binary":
            given[key] = True
        elif most and value.isascii() and value.isdigit() and least <= int(value[:9]) <= most:
            given[key] = int(value)
        else:
            known = "replicas=1 to 99, timeout=1 to 3600 and quantize=binary"
            raise GalleryError(f"{name}: the options of an address must be {known}, got {one_line(key)[:40]!r}")
    tls = parts.scheme == "qdrants"
    return Address(f"{'https' if tls else 'http'}://{shown}:{port}", name, tls, **given)


class Server:
    """A Qdrant server or cluster with galleries.

    A majority of replicas acknowledges each write, and all replicas apply the writes in the same order. `client` is an
    open client to use, such as `QdrantClient(":memory:")`; `close` leaves it open.
    """

    def __init__(self, address: str, client: Any = None) -> None:
        self.address = parse_address(address)
        self.name = self.address.name
        self.remarks: tuple[str, ...] = ()
        self._closed = False
        self._owned = client is None
        self._replicas = 1
        self._client: Any = client
        if client is None:
            key = os.environ.get(KEY_VARIABLE)
            if key and not self.address.tls:
                self.remarks = (f"{self.name}: the API key and the vectors are sent unencrypted; use qdrants://",)
            # The key is sent as a header, because the client would repeat the warning for a key.
            self._client = QdrantClient(
                url=self.address.url, timeout=self.address.timeout, check_compatibility=False,
                headers={"api-key": key} if key else None,
            )  # fmt: skip
        try:
            self._check_version()
        except BaseException:
            self.close()
            raise

    def _check_version(self) -> None:
        with self._errors():
            version = str(self._client.info().version)
        if _numbers(version) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise GalleryError(
                f"{self.name}: the server must be Qdrant {oldest} or newer, got {one_line(version)[:40]}"
            )

    def close(self) -> None:
        """Close the connection; all writes are already acknowledged."""
        if self._owned and not self._closed:
            self._client.close()
        self._closed = True

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        if self._closed:
            raise GalleryError(f"{self.name}: the gallery was closed; open it again")
        try:
            yield
        except ResponseHandlingException as error:
            raise GalleryError(f"{self.name}: {self._no_answer(error.source)}") from None
        except UnexpectedResponse as error:
            raise GalleryError(f"{self.name}: {_refusal(error)}") from None
        except ValueError as error:  # the client does not catch answers that are not JSON
            raise GalleryError(f"{self.name}: {self._no_answer(error)}") from None
        except (ApiException, QdrantException) as error:
            raise GalleryError(
                f"{self.name}: the server refused ({one_line(first_line(error))}); try again later"
            ) from None

    def _no_answer(self, source: Exception) -> str:
        if isinstance(source, httpx.TimeoutException):
            seconds = self.address.timeout
            return f"no answer within {seconds} s; try again, or allow more with ?timeout={2 * seconds} in the address"
        if isinstance(source, httpx.ConnectError):
            return f"no server answers there ({one_line(first_line(source))}); start it, or correct the address"
        if isinstance(source, httpx.TransportError):
            return f"the connection broke ({one_line(first_line(source))}); try again when the server is running"
        return f"the answer is not from Qdrant ({one_line(first_line(source))}); correct the address"

    # Collections of the server

    def collections(self) -> list[str]:
        """Return the names of all collections of the server, not only of galleries."""
        with self._errors():
            return [one.name for one in self._client.get_collections().collections]

    def dimension(self, collection: str) -> int | None:
        """Return the dimension of a collection's vectors; None if there is no such collection.

        If the collection has several replicas, each later read asks a majority of them.
        """
        with self._errors():
            if not self._client.collection_exists(collection):
                return None
            params = self._client.get_collection(collection).config.params
        self._replicas = max(self._replicas, params.replication_factor or 1)
        size = getattr(params.vectors, "size", None)
        if not isinstance(size, int):
            raise GalleryError(f"{self.name}: damaged (the collection {collection} has no vectors)")
        return size

    def create(self, collection: str, dimension: int, indices: dict[str, Any], *, searched: bool) -> None:
        """Create a collection and its payload indexes if missing; another process may create them at the same time."""
        replicas = self.address.replicas
        quantized = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        with self._errors():
            if not self._client.collection_exists(collection):
                try:
                    self._client.create_collection(
                        collection,
                        # DOT is the cosine of unit vectors and stores them unchanged; COSINE would scale them again.
                        vectors_config=models.VectorParams(
                            size=dimension, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16,
                            on_disk=not searched or self.address.quantize,
                        ),
                        hnsw_config=None if searched else models.HnswConfigDiff(m=0),
                        quantization_config=quantized if searched and self.address.quantize else None,
                        # Low thresholds, so that segments are rewritten soon and erased points leave the disk.
                        optimizers_config=models.OptimizersConfigDiff(
                            deleted_threshold=0.05 if searched else 0.001, vacuum_min_vector_number=100
                        ),
                        replication_factor=replicas, write_consistency_factor=replicas // 2 + 1, on_disk_payload=True,
                    )  # fmt: skip
                except (UnexpectedResponse, ValueError):
                    if not self._client.collection_exists(collection):
                        raise
            present = self._client.get_collection(collection).payload_schema
            for field, schema in indices.items():
                if field not in present:
                    self._client.create_payload_index(collection, field, field_schema=schema, wait=True)

    # Points

    def remove(self, collections: Sequence[str]) -> None:
        """Delete collections with all their points; missing collections are skipped."""
        there = set(self.collections())
        with self._errors():
            for one in collections:
                if one in there:
                    self._client.delete_collection(one)

    def read(self, collection: str, points: Sequence[str], *, vectors: bool = False, fields: Any = True) -> list[Any]:
        """Return the existing points with these ids."""
        found: list[Any] = []
        with self._errors():
            for part in parts(points):
                found += self._client.retrieve(
                    collection, part, with_payload=fields, with_vectors=vectors, consistency=self._consistency()
                )
        return found

    def scroll(
        self,
        collection: str,
        condition: Any,
        *,
        vectors: bool = False,
        fields: Any = True,
        limit: int | None = None,
        order: Any = None,
    ) -> Iterator[Any]:
        """Yield the points that meet a condition, at most `limit`.

        `order` names the payload field to sort by; it needs a `limit`.
        """
        offset, n = None, 0
        while limit is None or n < limit:
            size = _PAGE if limit is None or order is None else limit
            with self._errors():
                found, offset = self._client.scroll(
                    collection, scroll_filter=condition, limit=min(size, limit - n if limit else size), offset=offset,
                    order_by=order, with_payload=fields, with_vectors=vectors, consistency=self._consistency(),
                )  # fmt: skip
            yield from found
            n += len(found)
            if offset is None:
                return

    def insert(self, collection: str, points: Sequence[Any], *, overwrite: bool = False) -> None:
        """Write points; existing points stay unchanged unless `overwrite` is set."""
        mode = models.UpdateMode.UPSERT if overwrite else models.UpdateMode.INSERT_ONLY
        with self._errors():
            for part in parts(points):
                self._client.upsert(collection, part, wait=True, ordering=models.WriteOrdering.STRONG, update_mode=mode)

    def change(self, collection: str, operations: Sequence[Any]) -> None:
        """Apply operations one after another, not atomically."""
        with self._errors():
            for part in parts(operations, 100):
                self._client.batch_update_points(collection, part, wait=True, ordering=models.WriteOrdering.STRONG)

    def nearest(
        self, collection: str, probes: Sequence[list[float]], limit: int, condition: Any, n_rows: int
    ) -> list[list[Any]]:
        """Return the `limit` points most similar to each probe that meet the condition, with payloads and vectors.

        `n_rows` is the approximate number of points to search; for more points, more candidates are compared.
        """
        n = max(_MIN_CANDIDATES, _CANDIDATES_PER_MILLION * n_rows // 1_000_000) + 8 * limit
        params: Any = models.SearchParams(hnsw_ef=n)
        if self.address.quantize:
            params.quantization = models.QuantizationSearchParams(rescore=True, oversampling=n / limit)
        if not self._owned and not self.address.quantize:
            params = None  # the in-memory client always searches exactly, and warns about these parameters
        found: list[list[Any]] = []
        with self._errors():
            for part in parts(probes, _PROBES):
                requests = [
                    models.QueryRequest(
                        query=one, filter=condition, params=params, limit=limit, with_payload=True, with_vector=True
                    )
                    for one in part
                ]
                answers = self._client.query_batch_points(collection, requests, consistency=self._consistency())
                found += [answer.points for answer in answers]
        return found

    def _consistency(self) -> Any:
        return models.ReadConsistencyType.MAJORITY if self._replicas > 1 else None


def parts(values: Sequence[Any], n: int = _BATCH) -> Iterator[list[Any]]:
    """Yield the values in lists of at most `n`."""
    for start in range(0, len(values), n):
        yield list(values[start : start + n])


def _numbers(version: str) -> tuple[int, ...]:
    numbers = version.split("-")[0].split(".")[:2]
    return tuple(int(one) if one.isascii() and one.isdigit() and len(one) < 9 else 0 for one in numbers)


def _refusal(error: Any) -> str:
    status = error.status_code
    if status in (401, 403):
        return f"the server does not accept the API key (status {status}); set {KEY_VARIABLE} to one that may write"
    if status == 404:
        return "not found (status 404): this is not a Qdrant server, or the collection was deleted"
    said = error.content.decode(errors="replace") if isinstance(error.content, bytes) else ""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        said = str(error.structured()["status"]["error"])
    remedy = "try again later" if status is None or status >= 500 or status == 429 else "see the server's log"
    return f"the server refused (status {status}: {one_line(said)[:200]}); {remedy}"
