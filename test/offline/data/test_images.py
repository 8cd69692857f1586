"""Image files of every kind, folders and videos, good and broken."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg_ros.core.errors import ImageError
from ovseg_ros.offline.data.images import load_image, open_source


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def names_and_images(path: Path, **options: object) -> dict[str, np.ndarray]:
    return {image.name: image.load() for image in open_source(path, **options).images}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 17), (3000, 2)])
def test_rgb_is_returned_as_it_is(tmp_path, size):
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    loaded = load_image(save(tmp_path / "a.png", array))
    assert loaded.dtype == np.uint8 and loaded.flags.writeable
    np.testing.assert_array_equal(loaded, array)


def test_grey_bilevel_and_palette_become_rgb(tmp_path):
    grey = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(load_image(save(tmp_path / "l.png", grey)), np.stack([grey] * 3, axis=-1))
    assert load_image(save(tmp_path / "1.png", grey > 50))[..., 0].tolist() == [[0, 255], [255, 255]]
    colors = np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
    Image.fromarray(colors).quantize(4).save(tmp_path / "p.png")
    np.testing.assert_array_equal(load_image(tmp_path / "p.png"), colors)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_is_scaled_by_its_full_range(tmp_path, name):
    assert cv2.imwrite(str(tmp_path / name), np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert load_image(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_colour_png_keeps_the_upper_byte_and_the_channel_order(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), np.array([[[0x10FF, 0x2000, 0xFFFF]]], dtype=np.uint16))
    assert load_image(tmp_path / "a.png")[0, 0].tolist() == [0xFF, 0x20, 0x10]


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    assert load_image(save(tmp_path / "a.png", rgba))[0].tolist() == [[10, 20, 30], [255] * 3, [204] * 3]
    palette = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)).quantize(2)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((1, 0)))
    assert load_image(tmp_path / "p.png")[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, [[0, 80], [160, 240]]), (3, [[240, 160], [80, 0]]), (6, [[160, 0], [240, 80]]), (8, [[80, 240], [0, 160]])],
)
def test_exif_orientation_is_applied(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
    path = save(tmp_path / "a.jpg", array, exif=exif, quality=95)
    assert np.abs(load_image(path)[4::8, 4::8, 0].astype(int) - expected).max() <= 3


def test_floating_point_and_wide_integers_are_refused(tmp_path):
    with pytest.raises(ImageError, match="floating-point"):
        load_image(save(tmp_path / "f.tif", np.zeros((2, 2), dtype=np.float32)))
    with pytest.raises(ImageError, match="0 to 70000"):
        load_image(save(tmp_path / "i.tif", np.array([[0, 70000]], dtype=np.int32)))


def damaged_files(folder: Path) -> list[Path]:
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    paths = []
    for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp"):
        content = save(folder / f"good.{suffix}", array).read_bytes()
        for name, damaged in (
            ("half", content[: len(content) // 2]),
            ("header", content[:12]),
            ("empty", b""),
            ("garbled", content[:40] + bytes(255 - byte for byte in content[40:300]) + content[300:500]),
        ):
            path = folder / f"{name}.{suffix}"
            path.write_bytes(damaged)
            paths.append(path)
    (folder / "text.png").write_text("not an image")
    return [*paths, folder / "text.png"]


def test_damaged_files_raise_image_error_and_name_the_file(tmp_path):
    for path in damaged_files(tmp_path):
        with pytest.raises(ImageError, match=path.name):
            load_image(path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="too large"):
        load_image(save(tmp_path / "a.png", np.zeros((30, 30), dtype=np.uint8)))


def test_folder_yields_all_images_below_it_by_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.png", "a.PNG", "sub/c.png", ".hidden/d.png", "same.png", "same.bmp"):
        save(tmp_path / name, np.zeros((2, 3), dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    assert open_source(tmp_path).length == 5
    assert sorted(names_and_images(tmp_path)) == ["a", "b", "same.bmp", "same.png", "sub/c"]


def test_the_output_folder_inside_the_input_is_left_out(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a.png", "out/a.png"):
        save(tmp_path / name, np.zeros((2, 3), dtype=np.uint8))
    assert list(names_and_images(tmp_path, exclude=tmp_path / "out")) == ["a"]
    assert list(names_and_images(tmp_path, exclude=tmp_path)) == ["a", "out/a"]


def test_a_bad_image_in_a_folder_fails_only_when_it_is_loaded(tmp_path):
    save(tmp_path / "a.png", np.zeros((2, 3), dtype=np.uint8))
    (tmp_path / "b.png").write_bytes(b"")
    first, second = open_source(tmp_path).images
    assert first.load().shape == (2, 3, 3)
    with pytest.raises(ImageError, match=r"b\.png"):
        second.load()


def test_empty_folder_missing_path_and_broken_video_say_so(tmp_path):
    with pytest.raises(ImageError, match="has no image"):
        open_source(tmp_path)
    with pytest.raises(ImageError, match="does not exist"):
        open_source(tmp_path / "nothing.png")
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(ImageError, match="cannot be opened as a video"):
        open_source(tmp_path / "a.mp4")


def test_video_yields_its_frames_in_rgb(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 16))
    for level in (0, 100, 200):
        writer.write(np.full((16, 32, 3), (0, 0, level), dtype=np.uint8))  # OpenCV's order: red last
    writer.release()
    assert open_source(path).length == 3
    frames = names_and_images(path)
    assert list(frames) == ["clip_000000", "clip_000001", "clip_000002"]
    assert frames["clip_000002"].shape == (16, 32, 3)
    assert np.abs(frames["clip_000002"].mean(axis=(0, 1)) - (200, 0, 0)).max() < 12
