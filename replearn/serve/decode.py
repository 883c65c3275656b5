"""A picture as bytes from anywhere -> uint8 (3, side, side), or a refusal that says why. PIL and numpy, no PyTorch."""

import io

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")


class Refused(ValueError):
    """A request that is refused: the HTTP status and one sentence for the sender."""

    def __init__(self, status, sentence):
        super().__init__(sentence)
        self.status = status


def read(content, side, *, max_pixels=4_000_000):
    """Decode the bytes of a PNG, JPEG or WebP into uint8 (3, side, side), RGB: its central square, antialiased.

    Turned upright (EXIF), transparency on white, 16 bits to 8, palette, gray and CMYK to RGB; a side x side picture
    comes out as it is. The size is read from the header, before anything is unpacked.
    Raises Refused: 400 empty, truncated, damaged or no such picture; 413 more than `max_pixels` pixels."""
    if not content:
        raise Refused(400, "the body is empty: expected the bytes of a PNG, JPEG or WebP picture")
    image = _open(content, max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise Refused(
            413,
            f"the picture is too large: expected at most {max_pixels:,} pixels, found "
            f"{width} x {height} = {width * height:,}; make it smaller",
        )
    try:
        image = _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # the decoders have errors of their own: OSError, SyntaxError, ValueError, zlib.error, …
        raise Refused(400, f"the picture is truncated or damaged: {_reason(error)}") from error
    return np.ascontiguousarray(np.asarray(ImageOps.fit(image, (side, side))).transpose(2, 0, 1))


def _open(content, max_pixels):
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(
            413,
            f"the picture is too large: expected at most {max_pixels:,} pixels, found a header that "
            "asks for hundreds of megabytes; make it smaller",
        ) from error
    except Image.UnidentifiedImageError as error:
        raise Refused(
            400,
            "not a picture that can be read: expected a whole PNG, JPEG or WebP, found "
            f"{len(content):,} bytes that begin with {content[:8]!r}",
        ) from error
    except Exception as error:
        raise Refused(400, f"the picture is truncated or damaged: {_reason(error)}") from error


def _rgb(image):
    if image.mode.startswith("I"):  # 16 bits; PIL's own conversion cuts all above 255 off
        image = Image.fromarray(
            (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        )
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error):
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
