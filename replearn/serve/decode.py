"""From the bytes of an image file to an array, or a refusal that says why.

Whoever can reach the service can send anything, so nothing here trusts its input: the size and the
number of parts are read before anything is unpacked. The decoding itself is that of
`replearn.image_file`, which a folder of training images goes through as well.
"""

import numpy as np

from replearn import image_file

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

    As `replearn.image_file.read_square` does for a folder: turned upright, on white, antialiased.

    Args:
        content: The bytes of the file.
        side: Height and width of the result, in pixels.
        max_pixels: Images with more pixels are refused before they are unpacked.

    Returns:
        RGB, uint8 (3, side, side).

    Raises:
        Refused: With status 400 for an empty, truncated or damaged file or another format, with
            status 413 for too many pixels, scans or chunks.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (64, 48), "red").save(file, "PNG")
        >>> image = decode_image(file.getvalue(), side=32)
        >>> image.shape, image[:, 0, 0].tolist()
        ((3, 32, 32), [255, 0, 0])
    """
    if not content:
        raise Refused(400, "the body is empty: expected the bytes of a PNG, JPEG or WebP picture")
    try:
        square = image_file.read_square(content, side, formats=FORMATS, max_pixels=max_pixels)
    except image_file.TooLarge as error:
        raise Refused(
            413,
            f"the picture is too large: {error}; send a smaller one: a JPEG of a few hundred "
            "pixels a side shows the network as much",
        ) from error
    except image_file.NotAnImage as error:
        raise Refused(
            400,
            f"not a picture that can be read: expected a whole PNG, JPEG or WebP, {error}",
        ) from error
    except image_file.Unreadable as error:
        raise Refused(400, f"the picture is truncated or damaged: {error}") from error
    return np.ascontiguousarray(square.transpose(2, 0, 1))
