"""The service's desk: takes as many pictures as it has places for, has them worked on, answers or refuses."""

import asyncio
import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import anyio
import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import replearn
from replearn.serve import decode as pictures
from replearn.serve import demo as page
from replearn.serve import schemas as answers
from replearn.serve.decode import Refused

READ_ON = 16  # times max_bytes: so much of too long a body is read and thrown away, so that its sender hears why


class Desk:
    """Places for `workers` pictures in work, a thread each, and `queue` that wait."""

    def __init__(
        self, *, max_bytes=2_000_000, max_pixels=4_000_000, workers=2, queue=16, body_seconds=10.0
    ):
        given = dict(
            max_bytes=max_bytes, max_pixels=max_pixels, workers=workers, body_seconds=body_seconds
        )
        for name, value in given.items() | {("queue", queue)}:
            if not value >= (0 if name == "queue" else 1e-3):
                raise ValueError(f"{name}: expected a positive number, found {value}")
        self.max_bytes, self.max_pixels, self.body_seconds = max_bytes, max_pixels, body_seconds
        self.workers, self.queue, self.taken, self.requests = workers, queue, 0, 0
        self.threads, self.begin = ThreadPoolExecutor(workers, "picture"), time.monotonic()

    async def serve(self, request, work):
        """Return work(bytes of the picture), done in one of the threads. Raises Refused."""
        self.requests += 1
        if self.taken >= self.workers + self.queue:
            raise Refused(
                503,
                f"busy: {self.workers} pictures are being worked on and {self.queue} wait; try again in "
                "a second",
            )
        self.taken += 1
        try:
            check_type(request)
            content = await self.body(request)
            return await asyncio.get_running_loop().run_in_executor(self.threads, work, content)
        finally:
            self.taken -= 1

    async def body(self, request):
        """Return the body; never keep more than max_bytes of it, nor wait for it longer than body_seconds."""
        kept, size, most = bytearray(), declared(request) or 0, READ_ON * self.max_bytes
        too_long, found = size > self.max_bytes, 0
        with anyio.move_on_after(self.body_seconds) as clock:
            try:
                async for chunk in request.stream() if size <= most else _nothing():
                    found += len(chunk)
                    too_long = too_long or found > self.max_bytes
                    if found > most:
                        break
                    kept = bytearray() if too_long else kept + chunk
            except ClientDisconnect as error:
                raise Refused(
                    400, f"the connection ended after {found:,} bytes, before the body did"
                ) from error
        if too_long:
            raise Refused(
                413,
                f"the body is too large: expected at most {self.max_bytes:,} bytes, found "
                f"{max(size, found):,} or more; make the picture smaller",
            )
        if clock.cancelled_caught:
            raise Refused(
                408,
                f"the body stalled: expected all of it within {self.body_seconds:g} s, found {found:,} "
                "bytes",
            )
        return bytes(kept)


async def _nothing():
    return
    yield


def declared(request):
    """Return the length that a request's header declares, or None."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


def check_type(request):
    """Raise Refused unless the header says that a picture comes."""
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() not in answers.TYPES:
        raise Refused(
            415,
            f"Content-Type: expected {', '.join(answers.TYPES[:-1])} or {answers.TYPES[-1]}, found "
            f"{kind[:80] or 'none'}",
        )


def classification(bundle, h):
    """Return the answer of the linear probe to a feature h (D,)."""
    logits, names = bundle.weight @ h + bundle.bias, bundle.class_names  # (C,)
    p = np.exp(logits - logits.max())
    p = (p / p.sum()).tolist()
    return dict(
        class_name=names[int(np.argmax(logits))], probabilities=dict(zip(names, p, strict=True))
    )


def neighbors(bundle, features, h, k, with_pictures):
    """Return the k pictures of the index nearest to a feature h (D,), the nearest first."""
    cosine = features @ (h / max(float(np.linalg.norm(h)), 1e-12))  # (M,)
    nearest = np.argpartition(-cosine, k - 1)[:k]
    nearest = nearest[np.argsort(-cosine[nearest], kind="stable")]
    return [
        dict(
            index=int(i),
            class_name=bundle.class_names[int(bundle.labels[i])],
            cosine=float(cosine[i]),
            picture=_png(bundle.images[i]) if with_pictures else None,
        )
        for i in nearest
    ]


def _png(image):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def build(bundle, precision, **limits):
    """Return the app; see `replearn.serve.process.create_app`."""
    desk, name = (
        Desk(**limits),
        " ".join(map(str, (bundle.card or {}).get("architecture", ["unknown"]))),
    )
    features, most = (
        bundle.features.astype(np.float32, copy=False),
        min(100, len(bundle.features)),
    )  # (M, D)
    app = FastAPI(
        title="An encoder as a service",
        version=replearn.__version__,
        docs_url=None,
        redoc_url=None,
        description=f"{name}, {precision}; classes: {', '.join(bundle.class_names)}. Send the bytes of one "
        "PNG, JPEG or WebP picture as the body of a POST; its central square is resized to "
        f"{bundle.side} x {bundle.side} pixels.",
    )
    _explain(app, desk)

    def feature(content):
        picture = pictures.read(content, bundle.side, max_pixels=desk.max_pixels)  # (3, side, side)
        return bundle.embed(picture[None])[0]  # (D,)

    def picture_in(path, model, summary, *more):
        return app.post(
            path,
            response_model=model,
            summary=summary,
            openapi_extra=answers.picture_body(),
            response_model_exclude_none=True,
            responses=answers.refusals(400, 408, 413, 415, *more, 503),
        )

    @picture_in("/embed", answers.Embedding, "The feature of a picture")
    async def embed(request: Request):
        h = await desk.serve(request, feature)
        return dict(feature=h.tolist(), dimension=len(h))

    @picture_in("/classify", answers.Classification, "The class of a picture")
    async def classify(request: Request):
        return await desk.serve(request, lambda content: classification(bundle, feature(content)))

    @picture_in("/neighbours", list[answers.Neighbor], "The nearest training pictures", 422)
    async def neighbours(
        request: Request,
        k: Annotated[int, Query(ge=1, le=most, description=f"how many, 1 to {most}")] = min(
            5, most
        ),
        pictures: Annotated[bool, Query(description="send them along, as data: URIs")] = False,
    ):
        return await desk.serve(
            request, lambda content: neighbors(bundle, features, feature(content), k, pictures)
        )

    @app.get("/health", response_model=answers.Health, summary="Is it up, and since when?")
    async def health():
        return dict(
            status="ok",
            precision=precision,
            network=name,
            requests=desk.requests,
            seconds_up=round(time.monotonic() - desk.begin, 3),
        )

    @app.get("/", include_in_schema=False)
    async def root():
        return HTMLResponse(page.html(app.openapi()), headers=page.HEADERS)

    return app


def _explain(app, desk):
    """Answer every refusal and every error with {"error": sentence}."""

    def problem(status, sentence, **headers):
        return JSONResponse(
            {"error": sentence}, status, {k.replace("_", "-"): v for k, v in headers.items()}
        )

    @app.exception_handler(Refused)
    async def refused(request, error):
        unread = (
            not 0 <= (declared(request) or -1) <= READ_ON * desk.max_bytes
        )  # no end, or too far away
        close = dict(Connection="close") if unread or error.status in (408, 413) else {}
        return problem(
            error.status,
            str(error),
            **close,
            **(dict(Retry_After="1") if error.status == 503 else {}),
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):
        found = error.errors()[0]
        return problem(422, f"{found['loc'][-1]}: {found['msg']}, found {found.get('input')}")

    @app.exception_handler(HTTPException)
    async def elsewhere(request, error):
        about = f"{request.method} {request.url.path[:80]}: {error.detail}; see / for what there is"
        return JSONResponse({"error": about}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request, error):
        return problem(500, "an error inside the service: its log says more")
