"""What the service answers: a schema for each answer, and one for every refusal.

The docstrings and examples below are what OpenAPI and the demo page show to those who call the
service.
"""

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")


class Refusal(NamedTuple):
    """When a status is the answer, and an example of its sentence."""

    when: str
    example: str


REFUSALS: dict[int, Refusal] = {  # by HTTP status
    400: Refusal(
        when="Empty, truncated, damaged, or no PNG, JPEG or WebP picture",
        example="the picture is truncated or damaged: image file is truncated",
    ),
    408: Refusal(
        when="The body did not arrive in time",
        example="the body stalled: expected all of it within 10 s, found 512 bytes",
    ),
    413: Refusal(
        when="Too many bytes, too many pixels by the picture's header, or too long to decode",
        example="the picture is too large: expected at most 4,000,000 pixels, "
        "found 20000 x 20000 = 400,000,000; send a smaller one: a JPEG of a few hundred pixels a "
        "side shows the network as much",
    ),
    415: Refusal(
        when="Another content type",
        example="Content-Type: expected image/png, image/jpeg or image/webp, found text/plain; "
        "send the bytes of the file as the body, not a form, with its type in the header: curl "
        "-H 'Content-Type: image/png' --data-binary @picture.png ADDRESS",
    ),
    422: Refusal(
        when="A parameter out of range",
        example="k: input should be less than or equal to 100, found 101",
    ),
    503: Refusal(
        when="Too many requests at once: try again after the seconds in Retry-After",
        example="busy: 2 pictures are being worked on and 16 wait; try again in a second",
    ),
}


def _example(**values: Any) -> ConfigDict:
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
        class_name="star", probabilities={"star": 0.91, "circle": 0.06, "square": 0.03}
    )


class Neighbor(BaseModel):
    """A training picture near the one that was sent: its number, its class, and the cosine of the
    two features."""

    index: int
    class_name: str
    cosine: float
    picture: str | None = None
    model_config = _example(index=4711, class_name="star", cosine=0.973)


class Health(BaseModel):
    """What runs here, since when, how many pictures it was asked about, and how many of them it
    refused because it was busy. The status is "ok", or "busy" while it would refuse the next."""

    status: str
    precision: str
    network: str
    requests: int
    refused: int
    seconds_up: float
    model_config = _example(
        status="ok",
        precision="int8",
        network="resnet18 64",
        requests=1024,
        refused=3,
        seconds_up=63.5,
    )


def refusals(*statuses: int) -> dict[int, dict[str, Any]]:
    """Return what OpenAPI says about these statuses.

    Args:
        statuses: HTTP statuses, keys of `REFUSALS`.

    Returns:
        The `responses` of a route: a description and an example for each status.
    """
    responses = {}
    for status in statuses:
        refusal = REFUSALS[status]
        responses[status] = {
            "model": Problem,
            "description": refusal.when,
            "content": {"application/json": {"example": {"error": refusal.example}}},
        }
    return responses


def image_body() -> dict[str, Any]:
    """Return what OpenAPI says about the body of a request: the bytes of one image.

    Returns:
        The `requestBody` of a route, under that key.
    """
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "requestBody": {
            "required": True,
            "description": "The bytes of one picture.",
            "content": {image_type: binary for image_type in IMAGE_TYPES},
        }
    }
