"""From an image file to RGB: the one way for a folder, for the service and for a lesson.

What a network is trained on and what it is served with go through the same function, so the same
file gives the same numbers in both. PIL and NumPy only: the service imports no PyTorch.

A small file can ask for a lot of work (many scans, many chunks, a large picture). So its structure
is counted before anything is unpacked.
"""

import io
import re
import struct

import numpy as np
from PIL import Image, ImageOps

MAX_SCANS = 64  # of a JPEG; a progressive one has about 10. Each scan costs time for every pixel.
MAX_PASSES = 20  # scans times pixels of a JPEG, in multiples of the most pixels that are allowed
MAX_SEGMENTS = 4096  # of a JPEG: metadata and tables
MAX_CHUNKS = 4096  # of a PNG or WebP, beyond one for every KB of the file
WHITE = (255, 255, 255)
PNG_START = b"\x89PNG\r\n\x1a\n"


class Unreadable(ValueError):
    """A file from which no image can be made. The text says what was found."""


class NotAnImage(Unreadable):
    """A file of another kind: no format that is read here."""


class TooLarge(Unreadable):
    """An image that would take too much memory or time."""


def read_square(
    content: bytes,
    side: int,
    *,
    formats: tuple[str, ...] | None = None,
    max_pixels: int = 50_000_000,
) -> np.ndarray:
    """Decode an image file and resize the square in its middle.

    The image is turned upright (EXIF), and goes through `to_rgb`. Resizing is antialiased; a side
    x side image comes out as it is. Of an animation the first frame counts. Color profiles are
    ignored.

    Args:
        content: The bytes of the file.
        side: Height and width of the result, in pixels.
        formats: Names of formats as Pillow has them, such as ("PNG", "JPEG"); None for all that
            Pillow can read here.
        max_pixels: Images with more pixels are refused before they are unpacked.

    Returns:
        RGB, uint8 (side, side, 3).

    Raises:
        NotAnImage: The file has none of these formats.
        TooLarge: It has too many pixels, scans or chunks.
        Unreadable: It is truncated or damaged, or its numbers cannot be taken for colors.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGBA", (64, 48), (255, 0, 0, 0)).save(file, "PNG")  # red, but transparent
        >>> read_square(file.getvalue(), side=32)[0, 0].tolist()
        [255, 255, 255]
    """
    scans = check_structure(content)
    image = _open(content, formats, max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(
            f"expected at most {max_pixels:,} pixels, found {width} x {height} = {width * height:,}"
        )
    if scans * width * height > MAX_PASSES * max_pixels:
        raise TooLarge(
            f"expected at most {MAX_PASSES * max_pixels // (width * height)} scans of {width} x "
            f"{height} pixels, found {scans}"
        )
    try:
        # A large JPEG is decoded at a fraction of its size, which is much faster.
        image.draft("RGB", (4 * side, 4 * side))
        _match_transparency_to_8_bits(image)
        image = to_rgb(ImageOps.exif_transpose(image))
    except Unreadable:
        raise
    except MemoryError as error:
        raise TooLarge(
            "expected a picture that fits into the memory, found a larger one"
        ) from error
    # The decoders raise what they like: OSError, SyntaxError, ValueError, zlib.error and more.
    except Exception as error:
        raise Unreadable(_reason(error)) from error
    return np.asarray(ImageOps.fit(image, (side, side)))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB, 8 bits a channel.

    What is transparent is laid on white. Of 16 bits the upper 8 are kept. Gray, palette and CMYK
    become RGB as Pillow converts them.

    Args:
        image: Of any mode.

    Raises:
        Unreadable: The numbers have no known range (floating-point numbers, whole numbers beyond
            16 bits), or no known conversion to RGB.

    Example:
        >>> to_rgb(Image.new("LA", (1, 1), (0, 51))).getpixel((0, 0))  # black, one fifth opaque
        (204, 204, 204)
    """
    if image.mode == "F":
        raise Unreadable(
            "expected whole numbers of 8 or 16 bits, found floating-point numbers (mode F), whose "
            "range nobody knows"
        )
    if image.mode.startswith("I"):
        return _gray_of_16_bits(image).convert("RGB")
    if image.mode in ("RGBa", "La"):  # colors that are multiplied by their opacity
        image = image.convert(image.mode.upper())
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, WHITE)
        image = Image.alpha_composite(background, image)
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise Unreadable(f"expected colors, found mode {image.mode} ({error})") from error


def _gray_of_16_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 bits; Pillow's own conversion sets everything above 255 to 255."""
    values = np.asarray(image).astype(np.int64)
    # Pillow reads a PNG or PGM of 16 bits as whole numbers of 32 bits in some versions.
    has_16_bits = image.mode.startswith("I;16") or image.format in ("PNG", "PPM", None)
    if not has_16_bits or values.min() < 0 or values.max() > 65535:
        raise Unreadable(
            f"expected whole numbers of 8 or 16 bits, found mode {image.mode} with values from "
            f"{values.min()} to {values.max()}"
        )
    gray = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # one value of gray that counts as transparent
        gray = np.where(values == transparent, np.uint8(255), gray)
    return Image.fromarray(gray)


def _match_transparency_to_8_bits(image: Image.Image) -> None:
    """Bring the transparent color of a PNG of 3 x 16 bits to the 8 bits that Pillow reads of it.

    In place. Pillow leaves the color as it stands in the file, where no pixel would ever equal it.
    """
    color = image.info.get("transparency")
    is_rgb_of_16_bits = image.format == "PNG" and any(
        tile[3] == "RGB;16B" for tile in getattr(image, "tile", ())
    )
    if is_rgb_of_16_bits and isinstance(color, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in color)


def _open(content: bytes, formats: tuple[str, ...] | None, max_pixels: int) -> Image.Image:
    """Read the header; the pixels stay packed."""
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(
            f"expected at most {max_pixels:,} pixels, found a header that asks for hundreds of "
            "megabytes"
        ) from error
    except MemoryError as error:
        raise TooLarge(
            "expected a picture that fits into the memory, found a larger one"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise NotAnImage(f"found {len(content):,} bytes that begin with {content[:8]!r}") from error
    except Exception as error:
        raise Unreadable(_reason(error)) from error


def _reason(error: Exception) -> str:
    if str(error):
        return str(error).splitlines()[0][:120]
    return type(error).__name__


# --- work that is counted before it is done -------------------------------------------------------


def check_structure(content: bytes) -> int:
    """Raise if a JPEG, PNG or WebP file has more scans, segments or chunks than any honest one.

    Other formats pass.

    Args:
        content: The bytes of the file.

    Returns:
        How many scans a JPEG has, which each go over all of its pixels; 1 for another format.

    Raises:
        TooLarge: There are too many.

    Example:
        >>> empty_chunk = struct.pack(">I", 0) + b"abCd" + bytes(4)
        >>> check_structure(PNG_START + 100_000 * empty_chunk)
        Traceback (most recent call last):
        ...
        replearn.image_file.TooLarge: expected at most 5,267 chunks, found more
    """
    if content.startswith(b"\xff\xd8"):
        return _count_scans(content)
    if content.startswith(PNG_START):
        _check_chunks(content, ">I", length_at=0, start=8, overhead=12)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        _check_chunks(content, "<I", length_at=4, start=12, overhead=8)
    return 1


# A marker: 0xFF and a byte that stands for something. 0xFF 0x00 is the number 255 itself, 0xD0 to
# 0xD7 only divide the data of a scan.
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8)


def _count_scans(content: bytes) -> int:
    scans = 0
    segments = 0
    match = _MARKER.search(content)
    while match is not None:
        marker = match[1][0]
        segments += 1
        if marker == _END_OF_IMAGE:
            break
        if marker == _START_OF_SCAN:
            scans += 1
        if scans > MAX_SCANS:
            raise TooLarge(f"expected at most {MAX_SCANS} scans, found more")
        if segments > MAX_SEGMENTS:
            raise TooLarge(f"expected at most {MAX_SEGMENTS:,} segments, found more")
        position = match.end()
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(content[position : position + 2], "big")
        match = _MARKER.search(content, position)
    return scans


def _check_chunks(
    content: bytes, length_format: str, *, length_at: int, start: int, overhead: int
) -> None:
    """Walk over chunks that each say how long they are."""
    limit = MAX_CHUNKS + len(content) // 1024
    position = start
    chunks = 0
    while position + 8 <= len(content):
        chunks += 1
        if chunks > limit:
            raise TooLarge(f"expected at most {limit:,} chunks, found more")
        (length,) = struct.unpack_from(length_format, content, position + length_at)
        padding = length % 2 if length_format == "<I" else 0
        position += overhead + length + padding
