"""One way from an image file to RGB, compared with an arithmetic of its own in every mode."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from replearn import image_file
from replearn.data.folder import decode
from replearn.serve.decode import Refused, decode_image

SIDE = 32


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(channels, seed=0):
    """Blocks of 4 x 4 equal pixels, so that a lossy format keeps their color."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (SIDE // 4, SIDE // 4, channels), dtype=np.uint8)
    return blocks.repeat(4, axis=0).repeat(4, axis=1)


def on_white(color, opacity):
    """Return color (H, W, 3) under opacity (H, W, 1), both from 0 to 255, laid on white."""
    share = opacity / 255
    return color * share + 255 * (1 - share)


def gray():
    values = noise(1)
    return values.repeat(3, axis=2), values


def mode_l():
    rgb, values = gray()
    return Image.fromarray(values[..., 0], "L"), rgb


def mode_1():
    _, values = gray()
    bits = values[..., 0] > 127
    return Image.fromarray(bits), 255.0 * bits[..., None].repeat(3, axis=2)


def mode_la():
    rgb, values = gray()
    opacity = noise(1, seed=1)
    image = Image.fromarray(np.concatenate([values, opacity], axis=2), "LA")
    return image, on_white(rgb, opacity)


def mode_rgb():
    rgb = noise(3)
    return Image.fromarray(rgb, "RGB"), rgb


def mode_rgba():
    rgb = noise(3)
    opacity = noise(1, seed=1)
    image = Image.fromarray(np.concatenate([rgb, opacity], axis=2), "RGBA")
    return image, on_white(rgb, opacity)


def mode_p():
    image = Image.fromarray(noise(3), "RGB").quantize(64, dither=Image.Dither.NONE)
    palette = np.array(image.getpalette()).reshape(-1, 3)
    return image, palette[np.asarray(image)]


def mode_cmyk():
    inks = noise(4).astype(float)
    cyan_magenta_yellow = inks[..., :3]
    black = inks[..., 3:]
    rgb = (255 - cyan_magenta_yellow) * (255 - black) / 255
    return Image.fromarray(inks.astype(np.uint8), "CMYK"), rgb


def mode_i_16():
    values = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
    return Image.fromarray(values), (values[..., None] / 257).repeat(3, axis=2)


MODES = {
    "1": (mode_1, ("PNG", "BMP", "TIFF", "PPM", "GIF")),
    "L": (mode_l, ("PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP")),
    "LA": (mode_la, ("PNG", "TIFF")),
    "P": (mode_p, ("PNG", "BMP", "TIFF", "GIF")),
    "RGB": (mode_rgb, ("PNG", "BMP", "TIFF", "PPM", "JPEG", "WEBP")),
    "RGBA": (mode_rgba, ("PNG", "TIFF", "WEBP")),
    "CMYK": (mode_cmyk, ("TIFF", "JPEG")),
    "I;16": (mode_i_16, ("PNG", "TIFF", "PPM")),
}
PAIRS = [(mode, kind) for mode, (_, kinds) in MODES.items() for kind in kinds]


@pytest.mark.parametrize(("mode", "kind"), PAIRS)
def test_every_mode_in_every_format_has_the_right_values(mode, kind):
    image, expected = MODES[mode][0]()
    options = {
        "WEBP": {"lossless": True, "exact": True},
        "JPEG": {"quality": 100, "subsampling": 0},
    }
    if mode == "CMYK":
        options["JPEG"] = {"quality": 100}
    content = saved(image, kind, **options.get(kind, {}))
    rgb = image_file.read_square(content, SIDE)
    assert rgb.shape == (SIDE, SIDE, 3)
    assert rgb.dtype == np.uint8
    error = np.abs(rgb - expected)
    if kind == "JPEG":
        assert np.median(error) <= 3
    else:
        assert error.max() <= 1.01


@pytest.mark.parametrize(("mode", "kind"), PAIRS)
def test_folder_and_service_read_the_same(mode, kind):
    image, _ = MODES[mode][0]()
    if kind in ("PNG", "WEBP", "JPEG"):
        content = saved(image.resize((200, 150)), kind)
        from_folder = decode([io.BytesIO(content)])[0]
        assert np.array_equal(from_folder, decode_image(content, SIDE))


def test_one_transparent_value_of_gray_or_color():
    values = np.full((SIDE, SIDE), 1000, np.uint16)
    values[:, :16] = 60_000
    content = saved(Image.fromarray(values), "PNG", transparency=1000)
    rgb = image_file.read_square(content, SIDE)
    assert rgb[0, 0].tolist() == [234, 234, 234]  # 60,000 of 65,535
    assert rgb[0, 20].tolist() == [255, 255, 255]
    image = Image.new("RGB", (SIDE, SIDE), (9, 8, 7))
    content = saved(image, "PNG", transparency=(9, 8, 7))
    assert image_file.read_square(content, SIDE).min() == 255


def png(width, height, depth, color_type, rows, extra=b""):
    """Return a PNG file made by hand: Pillow cannot write 3 x 16 bits."""

    def chunk(name, body):
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows))
    return image_file.PNG_START + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


def test_a_transparent_color_of_16_bits():
    row = b"\0" + SIDE // 2 * struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)
    row += SIDE // 2 * struct.pack(">HHH", 0x8000, 0, 0)
    body = struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)
    checksum = struct.pack(">I", zlib.crc32(b"tRNS" + body))
    transparency = struct.pack(">I", len(body)) + b"tRNS" + body + checksum
    rgb = image_file.read_square(png(SIDE, SIDE, 16, 2, SIDE * row, transparency), SIDE)
    assert rgb[0, 0].tolist() == [255, 255, 255]
    assert rgb[0, -1].tolist() == [128, 0, 0]


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert image_file.read_square(content, SIDE)[0, 0].tolist() == [255, 0, 0], kind


def test_numbers_without_a_known_range_are_refused():
    floats = saved(Image.fromarray(np.full((40, 40), 0.5, np.float32)), "TIFF")
    with pytest.raises(image_file.Unreadable, match="floating-point numbers"):
        image_file.read_square(floats, SIDE)
    large = saved(Image.fromarray(np.full((40, 40), 100_000, np.int32)), "TIFF")
    with pytest.raises(image_file.Unreadable, match="from 100000 to 100000"):
        image_file.read_square(large, SIDE)


# --- small files that ask for much work -----------------------------------------------------------


def progressive_jpeg(scans, side=64):
    """Return a progressive JPEG with so many empty scans added at its end."""
    image = Image.fromarray(noise(3)).resize((side, side))
    content = saved(image, "JPEG", progressive=True)
    # A scan of the luminance alone, which refines nothing: header of 8 bytes, no data.
    empty_scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00"
    return content[:-2] + scans * empty_scan + content[-2:]


def chunky_png(chunks, name=b"abCd", body=b""):
    content = saved(Image.new("RGB", (SIDE, SIDE)), "PNG")
    checksum = struct.pack(">I", zlib.crc32(name + body))
    chunk = struct.pack(">I", len(body)) + name + body + checksum
    return content[:33] + chunks * chunk + content[33:]


def chunky_webp(chunks):
    content = saved(Image.new("RGB", (SIDE, SIDE)), "WEBP")
    body = content[12:] + chunks * (b"abcd" + bytes(4))
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (progressive_jpeg(141_000), "64 scans"),
        (progressive_jpeg(100), "64 scans"),
        (chunky_png(160_000), "chunks"),
        (chunky_png(90_000, b"tEXt", b"a\0b"), "chunks"),
        (chunky_webp(200_000), "chunks"),
        (b"\xff\xd8" + 100_000 * b"\xff\xfe\x00\x02", "segments"),
    ],
    ids=["scans", "100 scans", "empty chunks", "text chunks", "WebP", "comments"],
)
def test_files_of_too_many_parts_are_refused_before_they_are_decoded(content, words, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(image_file.TooLarge, match=f"expected at most .*{words}"):
        image_file.read_square(content, SIDE)
    with pytest.raises(Refused, match=words) as refused:
        decode_image(content, SIDE)
    assert refused.value.status == 413


def test_honest_files_have_few_parts():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (1500, 2000, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x010E] = "a description that holds \xff\xda" * 100
    for kind, options in (
        ("JPEG", dict(progressive=True, quality=98, exif=exif)),
        ("JPEG", dict(quality=98, restart_marker_blocks=1, exif=exif)),
        ("PNG", dict(compress_level=1)),
        ("WEBP", dict(quality=90)),
    ):
        image_file.check_structure(saved(photo, kind, **options))


def test_a_scan_hidden_behind_a_false_end_is_counted():
    """A comment may hold the bytes of an end; the decoder goes on after it, and so do we."""
    false_end = b"\xff\xfe\x00\x04\xff\xd9"
    content = progressive_jpeg(100)
    start = content.index(b"\xff\xda")
    with pytest.raises(image_file.TooLarge):
        image_file.check_structure(content[:start] + false_end + content[start:])


def test_scans_are_counted_together_with_the_pixels_that_each_goes_over():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", progressive=True)
    honest = file.getvalue()
    last_scan = honest[honest.rindex(b"\xff\xda") : -2]
    many = honest[:-2] + 40 * last_scan + honest[-2:]
    scans = image_file.check_structure(many)
    assert scans == image_file.check_structure(honest) + 40
    pixels = 96 * 96
    assert image_file.read_square(honest, 32, max_pixels=pixels).shape == (32, 32, 3)
    assert image_file.read_square(many, 32, max_pixels=4 * pixels).shape == (32, 32, 3)
    sentence = rf"expected at most 20 scans of 96 x 96 pixels, found {scans}"
    with pytest.raises(image_file.TooLarge, match=sentence):
        image_file.read_square(many, 32, max_pixels=pixels)
