"""From the bytes of an image file to an array, or a refusal that says why.

Whoever can reach the service can send anything, so nothing here trusts its input: the size is read
from the file's header before anything is unpacked. PIL and numpy only, no PyTorch.
"""

import io

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")


class Refused(ValueError):
    """A request that the service refuses.

    Args:
        status: The HTTP status.
        sentence: One sentence for whoever sent the request.

    Example:
        >>> error = Refused(413, "the picture is too large")
        >>> error.status, str(error)
        (413, 'the picture is too large')
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def decode_image(content: bytes, side: int, *, max_pixels: int = 4_000_000) -> np.ndarray:
    """Decode a PNG, JPEG or WebP file and resize its central square.

    The image is turned upright (EXIF), transparency becomes white, 16 bits become 8, and palette,
    gray and CMYK become RGB. Resizing is antialiased; a side x side image comes out as it is.

    Args:
        content: The bytes of the file.
        side: Height and width of the result, in pixels.
        max_pixels: Images with more pixels are refused before they are unpacked.

    Returns:
        RGB, uint8 (3, side, side).

    Raises:
        Refused: With status 400 for an empty, truncated or damaged file or another format, with
            status 413 for too many pixels.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (64, 48), "red").save(file, "PNG")
        >>> image = decode_image(file.getvalue(), side=32)
        >>> image.shape, image[:, 0, 0].tolist()
        ((3, 32, 32), [255, 0, 0])
    """
    if not content:
        raise Refused(400, "the body is empty: expected the bytes of a PNG, JPEG or WebP picture")
    image = _open(content, max_pixels)
    width, height = image.size
    pixels = width * height
    if pixels > max_pixels:
        raise Refused(
            413,
            f"the picture is too large: expected at most {max_pixels:,} pixels, found "
            f"{width} x {height} = {pixels:,}; make it smaller",
        )
    try:
        image = _to_rgb(ImageOps.exif_transpose(image))
    # The decoders raise what they like: OSError, SyntaxError, ValueError, zlib.error and more.
    except Exception as error:
        raise _damaged(error) from error
    square = ImageOps.fit(image, (side, side))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """Read the header; the pixels stay packed."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(
            413,
            f"the picture is too large: expected at most {max_pixels:,} pixels, found a header "
            "that asks for hundreds of megabytes; make it smaller",
        ) from error
    except Image.UnidentifiedImageError as error:
        raise Refused(
            400,
            "not a picture that can be read: expected a whole PNG, JPEG or WebP, found "
            f"{len(content):,} bytes that begin with {content[:8]!r}",
        ) from error
    except Exception as error:
        raise _damaged(error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits. PIL's own conversion sets everything above 255 to 255.
        pixels = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _damaged(error: Exception) -> Refused:
    reason = type(error).__name__
    if str(error):
        reason = str(error).splitlines()[0][:120]
    return Refused(400, f"the picture is truncated or damaged: {reason}")
