"""Photographs of every kind through the whole pipeline: file, decoding, `ovseg segment`, files of the same size.

The photograph is test/data/grace_hopper.jpg; other sizes and pictures are cuts of it, scaled.
"""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg_ros.core.vocabulary import Vocabulary, parse_vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.coco_panoptic import rgb_to_ids
from ovseg_ros.offline.data.images import load_image
from ovseg_ros.offline.tools import segment

PHOTOGRAPH = Path(__file__).parents[2] / "data" / "grace_hopper.jpg"
WORDS = "red cube, wall"
ORIENTATION = 0x0112

# EXIF's orientations: how the stored array is made of the upright one (EXIF 2.32, tag 0x0112).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def photograph(height, width, seed=0):
    """A cut of the photograph with this aspect ratio, scaled to uint8 RGB (height, width, 3)."""
    whole = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))
    rng = np.random.default_rng(seed)
    scale = min(whole.shape[0] / height, whole.shape[1] / width) * rng.uniform(0.5, 1.0)
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = rng.integers(0, whole.shape[0] - rows + 1), rng.integers(0, whole.shape[1] - columns + 1)
    return cv2.resize(whole[top : top + rows, left : left + columns], (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch, tiny_segmenter):
    monkeypatch.setattr(segment, "build_segmenter", lambda *_: tiny_segmenter)


@pytest.fixture
def direct(tiny_segmenter):
    """Segment ids of an array, without files."""
    text = tiny_segmenter.prepare(Vocabulary.build(parse_vocabulary(WORDS)))
    return lambda image: tiny_segmenter.segment(np.ascontiguousarray(image), text).segment_ids


def through_files(source, out):
    """`ovseg segment`: name -> (entry of the index, segment ids, overlay)."""
    assert main(["segment", str(source), "--vocabulary", WORDS, "--out", str(out)]) == 0
    index = json.loads((out / "panoptic.json").read_text())
    results = {}
    for image, annotation in zip(index["images"], index["annotations"], strict=True):
        ids = rgb_to_ids(load_image(out / "panoptic" / annotation["file_name"]))
        results[image["file_name"]] = image, ids, load_image(out / "overlay" / annotation["file_name"])
    return results


def assert_result(result, expected_ids):
    image, ids, overlay = result
    assert (image["height"], image["width"]) == ids.shape == overlay.shape[:2] == expected_ids.shape
    np.testing.assert_array_equal(ids, expected_ids)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_all_eight_orientations_are_segmented_upright(tmp_path, direct, suffix):
    upright = photograph(31, 47)
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    folder = tmp_path / "in"
    folder.mkdir()
    for orientation, stored in STORED.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        array = np.ascontiguousarray(stored(upright))
        Image.fromarray(array).save(folder / f"{orientation}.{suffix}", exif=exif, **options)
    results = through_files(folder, tmp_path / "out")
    assert sorted(results) == [str(orientation) for orientation in STORED]
    for orientation, result in results.items():
        decoded = load_image(folder / f"{orientation}.{suffix}")
        difference = np.abs(decoded.astype(int) - upright)
        assert difference.max() == 0 if suffix != "jpg" else difference.mean() < 2
        assert_result(result, direct(decoded))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    array = photograph(12, 20)
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), array)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path, exif):
    Image.fromarray(photograph(12, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (12, 20, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 700), (700, 1), (17, 5), (333, 100), (239, 241)])
def test_odd_sizes(tmp_path, direct, size):
    image = photograph(*size)
    Image.fromarray(image).save(tmp_path / "a.png")
    [result] = through_files(tmp_path / "a.png", tmp_path / "out").values()
    assert_result(result, direct(image))


def test_a_photograph_of_twelve_megapixels(tmp_path):
    Image.fromarray(photograph(3000, 4096)).save(tmp_path / "large.jpg", quality=80)
    [(image, ids, overlay)] = through_files(tmp_path / "large.jpg", tmp_path / "out").values()
    assert (image["height"], image["width"]) == ids.shape == overlay.shape[:2] == (3000, 4096)


def png(samples, color_type, *, transparent=None):
    """A 16-bit PNG of (H, W) or (H, W, C) samples, which no library at hand writes for every colour type."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)),
            b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def kinds(folder, rgb):
    """Files of one picture in many kinds: name -> (path, what it should decode to, largest difference)."""
    grey = rgb[..., 1]
    greys = np.repeat(grey[..., None], 3, axis=2)
    ramp = np.tile(np.linspace(0, 255, rgb.shape[1]).astype(np.uint8), (rgb.shape[0], 1))
    over_white = np.rint(255 + (rgb.astype(float) - 255) * ramp[..., None] / 255)
    palette = Image.fromarray(rgb).quantize(64)
    made = {}

    def save(name, image, expected, tolerance=0, **options):
        image.save(folder / name, **options)
        made[name] = folder / name, expected, tolerance

    def write(name, content, expected, tolerance=0):
        (folder / name).write_bytes(content)
        made[name] = folder / name, expected, tolerance

    save("grey.png", Image.fromarray(grey), greys)
    save("bilevel.png", Image.fromarray(grey > 127), np.where(greys > 127, 255, 0))
    save("palette.png", palette, np.array(palette.convert("RGB")))
    save("palette.gif", palette, np.array(palette.convert("RGB")))
    save("alpha.png", Image.fromarray(np.dstack([rgb, ramp])), over_white, 1)
    save("alpha.tif", Image.fromarray(np.dstack([rgb, ramp])), over_white, 1)
    save("grey_alpha.png", Image.merge("LA", [Image.fromarray(grey), Image.fromarray(ramp)]), None)
    save("cmyk.tif", Image.fromarray(rgb).convert("CMYK"), rgb, 1)
    save("no_compression.bmp", Image.fromarray(rgb), rgb)
    save("text.ppm", Image.fromarray(rgb), rgb)
    save("lossless.webp", Image.fromarray(rgb), rgb, lossless=True)
    save("alpha.webp", Image.fromarray(np.dstack([rgb, ramp])), over_white, 1, lossless=True, exact=True)
    save("progressive.jpg", Image.fromarray(rgb), None, progressive=True)
    save("grey.jpg", Image.fromarray(grey), None)
    save("cmyk.jpg", Image.fromarray(rgb).convert("CMYK"), None)
    save("pages.tif", Image.fromarray(rgb), rgb, save_all=True, append_images=[Image.fromarray(rgb[::-1])])
    save(
        "frames.webp",
        Image.fromarray(rgb),
        rgb,
        save_all=True,
        append_images=[Image.fromarray(rgb[::-1])],
        lossless=True,
    )
    sixteen = grey.astype(np.uint16) * 257
    hole = int(sixteen[0, 0])
    write("grey16.png", png(sixteen, 0), greys)
    write("grey16_hole.png", png(sixteen, 0, transparent=hole), np.where(greys == grey[0, 0], 255, greys))
    write("grey16.pgm", b"P5 %d %d 65535\n" % grey.shape[::-1] + sixteen.astype(">u2").tobytes(), greys)
    write("rgb16.png", png(rgb.astype(np.uint16) * 257, 2), rgb)
    write("rgba16.png", png(np.dstack([rgb, ramp]).astype(np.uint16) * 257, 6), over_white, 1)
    cv2.imwrite(str(folder / "grey16.tif"), sixteen)
    made["grey16.tif"] = folder / "grey16.tif", greys, 0
    cv2.imwrite(str(folder / "rgb16.tif"), rgb[..., ::-1].astype(np.uint16) * 257)
    made["rgb16.tif"] = folder / "rgb16.tif", rgb, 0
    return made


def test_every_kind_of_file_decodes_to_what_a_person_sees_and_keeps_its_size(tmp_path, direct):
    rgb = photograph(37, 53)
    folder = tmp_path / "in"
    folder.mkdir()
    made = kinds(folder, rgb)
    results = through_files(folder, tmp_path / "out")
    assert len(results) == len(made)
    for name, (path, expected, tolerance) in made.items():
        decoded = load_image(path)
        assert decoded.dtype == np.uint8 and decoded.shape == (37, 53, 3), name
        if expected is not None:
            assert np.abs(decoded.astype(int) - expected).max() <= tolerance, name
        key = name if name in results else name.rsplit(".", 1)[0]
        assert_result(results[key], direct(decoded))


def test_a_video_is_segmented_frame_by_frame(tmp_path, direct):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (54, 38))  # it writes even sizes only
    assert writer.isOpened()
    for seed in range(3):
        writer.write(photograph(38, 54, seed=seed)[..., ::-1])
    writer.release()
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read()[1][..., ::-1] for _ in range(3)]
    capture.release()
    results = through_files(path, tmp_path / "out")
    assert list(results) == ["clip_000000", "clip_000001", "clip_000002"]
    for frame, result in zip(frames, results.values(), strict=True):
        assert frame.shape == (38, 54, 3)
        assert_result(result, direct(frame))


def test_the_photograph_itself(tmp_path, direct):
    [result] = through_files(PHOTOGRAPH, tmp_path / "out").values()
    assert result[1].shape == (600, 512)
    assert_result(result, direct(load_image(PHOTOGRAPH)))
