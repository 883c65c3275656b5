"""What the service answers: a schema each, with an example, and every refusal as {"error": one sentence}."""

from pydantic import BaseModel, ConfigDict

TYPES = ("image/png", "image/jpeg", "image/webp")
REFUSALS = {  # status: (when, an example)
    400: (
        "Empty, truncated, damaged, or no PNG, JPEG or WebP picture",
        "the picture is truncated or damaged: image file is truncated",
    ),
    408: (
        "The body did not arrive in time",
        "the body stalled: expected all of it within 10 s, found 512 bytes",
    ),
    413: (
        "Too many bytes, or too many pixels by the picture's header",
        "the picture is too large: expected at most 4,000,000 pixels, found 20000 x 20000 = 400,000,000; "
        "make it smaller",
    ),
    415: (
        "Another content type",
        "Content-Type: expected image/png, image/jpeg or image/webp, found text/plain",
    ),
    422: ("A parameter out of range", "k: input should be less than or equal to 100, found 101"),
    503: (
        "All places are taken: try again after the seconds in Retry-After",
        "busy: 2 pictures are being worked on and 16 wait; try again in a second",
    ),
}


def _example(**values):
    return ConfigDict(json_schema_extra={"example": values})


class Problem(BaseModel):
    """Why a request was refused."""

    error: str


class Embedding(BaseModel):
    """The feature h of the picture, as the encoder gives it."""

    feature: list[float]
    dimension: int
    model_config = _example(feature=[0.31, 0.0, 1.27, 0.08], dimension=4)


class Classification(BaseModel):
    """The most probable class by the linear probe on h, and the softmax over all classes."""

    class_name: str
    probabilities: dict[str, float]
    model_config = _example(
        class_name="star", probabilities=dict(star=0.91, circle=0.06, square=0.03)
    )


class Neighbor(BaseModel):
    """A training picture near the one that was sent: its number, its class, and the cosine of the two features."""

    index: int
    class_name: str
    cosine: float
    picture: str | None = None
    model_config = _example(index=4711, class_name="star", cosine=0.973)


class Health(BaseModel):
    """What runs here, since when, and how many pictures it was asked about."""

    status: str
    precision: str
    network: str
    requests: int
    seconds_up: float
    model_config = _example(
        status="ok", precision="int8", network="resnet18 64", requests=1024, seconds_up=63.5
    )


def refusals(*statuses):
    """Return the `responses` that OpenAPI shows for these statuses, an example each."""
    return {
        status: dict(
            model=Problem,
            description=REFUSALS[status][0],
            content={"application/json": {"example": {"error": REFUSALS[status][1]}}},
        )
        for status in statuses
    }


def picture_body():
    """Return the `requestBody` that OpenAPI shows: the bytes of one picture, nothing around them."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES}
    return {
        "requestBody": {
            "required": True,
            "description": "The bytes of one picture.",
            "content": content,
        }
    }
