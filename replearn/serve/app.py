"""The web application: the routes, the limits on what they accept, a sentence for every refusal.

A request for an image waits for its body in the event loop, then for a free thread. A process of
this thread's decodes it; the thread embeds it and answers. More requests than the limits allow are
refused at once.

D features, C classes, M training images in the bundle.
"""

import asyncio
import base64
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

import anyio
import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import replearn
from replearn.serve import demo, schemas
from replearn.serve.bundle import Bundle
from replearn.serve.decode import Refused
from replearn.serve.decoder import DecoderPool

# So many times max_bytes of a body that is too large are read and thrown away: a client that is
# still sending does not look at the answer, and would never see why it was refused.
READ_ON = 16
MOST_WORKERS = 256
HOW_TO_SHRINK = (
    "a JPEG of a few hundred pixels a side shows the network as much; or start the service with "
    "larger --max-bytes or --max-pixels"
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """What the service accepts.

    Args:
        max_bytes: Of a body.
        max_pixels: Of an image, by its header.
        workers: Images that are worked on at a time, a thread and a process each; at most 256.
        queue: Requests that may wait for a thread; all others are refused with a 503.
        body_seconds: Time for a whole body to arrive.
        decode_seconds: Time for an image to be decoded.

    Raises:
        ValueError: One of them is not a positive number; only `queue` may be 0.
    """

    max_bytes: int = 2_000_000
    max_pixels: int = 4_000_000
    workers: int = 2
    queue: int = 16
    body_seconds: float = 10.0
    decode_seconds: float = 2.0

    def __post_init__(self):
        for name, value in asdict(self).items():
            lowest = 0 if name == "queue" else 1e-3
            if not value >= lowest:  # NaN fails every comparison
                raise ValueError(f"{name}: expected a positive number, found {value}")
        if self.workers > MOST_WORKERS:
            raise ValueError(
                f"workers: expected at most {MOST_WORKERS}, each is a process, found "
                f"{self.workers:,}"
            )

    @property
    def capacity(self) -> int:
        """Requests that are inside at a time, in work or waiting."""
        return self.workers + self.queue

    @property
    def max_read(self) -> int:
        """Bytes of a body that are read, if only to be thrown away."""
        return READ_ON * self.max_bytes


class WorkerPool:
    """The threads that work on images, and the count of the requests inside.

    Args:
        limits: How many threads, and how many requests may wait for one.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.requests = 0  # since the start, refused ones as well
        self.refused = 0  # of them, with a 503
        self._active = 0  # requests inside now, in work or waiting
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="image")

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused."""
        return self._active >= self.limits.capacity

    async def run(self, request: Request, work: Callable[[bytes], Answer]) -> Answer:
        """Read the body of a request and have it worked on in a thread.

        Args:
            request: A request with the bytes of an image as its body.
            work: A function of these bytes.

        Returns:
            What `work` returns.

        Raises:
            Refused: Too many requests, another content type, a body that does not end in time or
                is too large, or whatever `work` refuses.
        """
        self.requests += 1
        if self.is_full:
            self.refused += 1
            raise Refused(
                503,
                f"busy: {self.limits.workers} pictures are being worked on and "
                f"{self.limits.queue} wait; try again in a second",
            )
        self._active += 1
        try:
            check_content_type(request)
            content = await read_body(request, self.limits)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, work, content)
        finally:
            self._active -= 1


def check_content_type(request: Request) -> None:
    """Refuse a request whose header does not announce an image.

    Args:
        request: Its Content-Type may have parameters and capital letters.

    Raises:
        Refused: With status 415.
    """
    header = request.headers.get("content-type", "")
    content_type = header.split(";")[0].strip().lower()
    if content_type not in schemas.IMAGE_TYPES:
        *others, last = schemas.IMAGE_TYPES
        raise Refused(
            415,
            f"Content-Type: expected {', '.join(others)} or {last}, found {header[:80] or 'none'}; "
            "send the bytes of the file as the body, not a form, with its type in the header: curl "
            "-H 'Content-Type: image/png' --data-binary @picture.png ADDRESS",
        )


def declared_length(request: Request) -> int | None:
    """Return the length of the body as the header declares it.

    Args:
        request: A request, whose body need not be read yet.

    Returns:
        Bytes; None if no length is declared, as for a chunked body.
    """
    header = request.headers.get("content-length", "")
    return int(header) if header.isdecimal() else None


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body of a request, of which never more than `max_bytes` are in memory.

    Args:
        request: A request whose body is still to be read.
        limits: How large it may be and how long it may take.

    Returns:
        The whole body.

    Raises:
        Refused: With status 413 for too large a body, 408 for one that did not arrive in time and
            400 for a connection that ended before the body did.
    """
    declared = declared_length(request) or 0
    if declared > limits.max_read:
        raise _too_large(declared, limits)

    body = bytearray()
    received = 0
    with anyio.move_on_after(limits.body_seconds) as timer:
        try:
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.max_read:
                    break
                if max(declared, received) > limits.max_bytes:
                    body.clear()
                else:
                    body += chunk
        except ClientDisconnect as error:
            raise Refused(
                400, f"the connection ended after {received:,} bytes, before the body did"
            ) from error

    if max(declared, received) > limits.max_bytes:
        raise _too_large(max(declared, received), limits)
    if timer.cancelled_caught:
        raise Refused(
            408,
            f"the body stalled: expected all of it within {limits.body_seconds:g} s, found "
            f"{received:,} bytes",
        )
    return bytes(body)


def _too_large(length: int, limits: Limits) -> Refused:
    return Refused(
        413,
        f"the body is too large: expected at most {limits.max_bytes:,} bytes, found "
        f"{length:,} or more; send a smaller picture: {HOW_TO_SHRINK}",
    )


def classification(bundle: Bundle, h: np.ndarray) -> dict[str, Any]:
    """Return what the linear head says about a feature.

    Args:
        bundle: With the head.
        h: Feature of an image, float32 (D,).

    Returns:
        The fields of `schemas.Classification`.
    """
    logits = bundle.weight @ h + bundle.bias  # (C,)
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    return {
        "class_name": bundle.class_names[int(np.argmax(logits))],
        "probabilities": dict(zip(bundle.class_names, probabilities.tolist(), strict=True)),
    }


def find_neighbors(
    bundle: Bundle, h: np.ndarray, k: int, *, with_images: bool = False
) -> list[dict[str, Any]]:
    """Return the training images of a bundle that are nearest to a feature by cosine.

    Args:
        bundle: With M training images and their features of length 1.
        h: Feature of an image, float32 (D,).
        k: How many, 1 to M.
        with_images: Send the images along, as data: URIs.

    Returns:
        The fields of `schemas.Neighbor` for each, the nearest first.
    """
    length = max(float(np.linalg.norm(h)), 1e-12)
    cosines = bundle.features @ (h / length)  # (M,)
    nearest = np.argpartition(-cosines, k - 1)[:k]  # in any order
    nearest = nearest[np.argsort(-cosines[nearest], kind="stable")]
    neighbors = []
    for index in nearest.tolist():
        neighbors.append(
            {
                "index": index,
                "class_name": bundle.class_names[int(bundle.labels[index])],
                "cosine": float(cosines[index]),
                "picture": _data_uri(bundle.images[index]) if with_images else None,
            }
        )
    return neighbors


def _data_uri(image: np.ndarray) -> str:
    """Return an image, uint8 (3, H, W), as a PNG inside a data: URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def build(bundle: Bundle, precision: str, limits: Limits) -> FastAPI:
    """Return the application; `replearn.serve.create_app` is the function for users.

    Args:
        bundle: From `replearn.serve.open_bundle`.
        precision: "int8" or "fp32", as the bundle was opened; it is only shown.
        limits: What the service accepts.

    Returns:
        The application, ready for any ASGI server.
    """
    architecture = (bundle.card or {}).get("architecture", ["unknown"])
    network = " ".join(str(part) for part in architecture)
    pool = WorkerPool(limits)
    app = FastAPI(
        title="An encoder as a service",
        version=replearn.__version__,
        docs_url=None,
        redoc_url=None,
        description=f"{network}, {precision}; classes: {', '.join(bundle.class_names)}. "
        "Send the bytes of one PNG, JPEG or WebP picture as the body of a POST; its central square "
        f"is resized to {bundle.side} x {bundle.side} pixels.",
    )
    _add_error_handlers(app, limits)
    _add_image_routes(app, bundle, pool)
    _add_information_routes(app, pool, precision=precision, network=network)
    return app


# FastAPI publishes the docstring of a route's function as its description. The routes below have a
# summary instead, and no docstring.


def _add_image_routes(app: FastAPI, bundle: Bundle, pool: WorkerPool) -> None:
    limits = pool.limits
    decoders = DecoderPool(limits.workers, bundle.side, limits.max_pixels, limits.decode_seconds)

    def feature(content: bytes) -> np.ndarray:
        image = decoders.decode(content)
        return bundle.embed(image[None])[0]  # (D,)

    @_image_route(app, "/embed", schemas.Embedding, "The feature of a picture")
    async def embed(request: Request) -> dict:
        h = await pool.run(request, feature)
        return {"feature": h.tolist(), "dimension": len(h)}

    @_image_route(app, "/classify", schemas.Classification, "The class of a picture")
    async def classify(request: Request) -> dict:
        def work(content: bytes) -> dict:
            return classification(bundle, feature(content))

        return await pool.run(request, work)

    most = min(100, len(bundle.features))

    @_image_route(
        app,
        "/neighbors",
        list[schemas.Neighbor],
        "The nearest training pictures",
        has_parameters=True,
    )
    async def neighbors(
        request: Request,
        k: Annotated[int, Query(ge=1, le=most, description=f"how many, 1 to {most}")] = min(
            5, most
        ),
        with_images: Annotated[
            bool, Query(alias="pictures", description="send them along, as data: URIs")
        ] = False,
    ) -> list[dict]:
        def work(content: bytes) -> list[dict]:
            return find_neighbors(bundle, feature(content), k, with_images=with_images)

        return await pool.run(request, work)


def _image_route(
    app: FastAPI, path: str, answer: Any, summary: str, *, has_parameters: bool = False
) -> Callable:
    """Return the decorator for a route that takes an image and is described as such."""
    statuses = {400, 408, 413, 415, 503}
    if has_parameters:
        statuses.add(422)
    return app.post(
        path,
        response_model=answer,
        response_model_exclude_none=True,
        summary=summary,
        responses=schemas.refusals(*sorted(statuses)),
        openapi_extra=schemas.image_body(),
    )


def _add_information_routes(
    app: FastAPI, pool: WorkerPool, *, precision: str, network: str
) -> None:
    started = time.monotonic()

    @app.get("/health", response_model=schemas.Health, summary="Is it up, and since when?")
    async def health() -> dict:
        return {
            "status": "busy" if pool.is_full else "ok",
            "precision": precision,
            "network": network,
            "requests": pool.requests,
            "refused": pool.refused,
            "seconds_up": round(time.monotonic() - started, 3),
        }

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(demo.demo_page(app.openapi()), headers=demo.HEADERS)


def _add_error_handlers(app: FastAPI, limits: Limits) -> None:
    """Answer every refusal and every error with {"error": sentence}."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {}
        length = declared_length(request)
        # A body with no known end, or one too far away, is not read: the connection ends instead.
        unread = not length or length > limits.max_read
        if unread or error.status in (408, 413):
            headers["Connection"] = "close"
        if error.status == 503:
            headers["Retry-After"] = "1"
        return _problem(error.status, str(error), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = first["loc"][-1]
        return _problem(422, f"{name}: {first['msg']}, found {first.get('input')}")

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path[:80]
        sentence = f"{request.method} {path}: {error.detail}; see / for what there is"
        return _problem(error.status_code, sentence, error.headers)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        return _problem(500, "an error inside the service: its log says more")


def _problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)
