"""Image files of every kind, folders and videos, good and broken."""

import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg_ros.core.errors import ImageError
from ovseg_ros.offline.data.images import _ends_early, frames_in, load_image, open_source
from ovseg_ros.offline.data.kinds import Kind, files_below, kind_of, picture_suffixes


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


def test_folders_are_searched_for_whatever_this_pillow_reads(tmp_path):
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    names = ["a.jpg", "b.MPO", "c.jp2", "d.tga", "e.webp"] + ["g.avif"] * (".avif" in picture_suffixes())
    for name in names:
        save(tmp_path / name, pixels)
    assert sorted(names_and_images(tmp_path)) == sorted(name[0] for name in names)
    kinds = {"a.heic": Kind.UNREADABLE, "a.svg": Kind.UNREADABLE, "a.DNG": Kind.UNREADABLE, "a.mpg": Kind.VIDEO}
    kinds |= {
        "a.MTS": Kind.VIDEO,
        "a.bag.active": Kind.BAG,
        "a.db3.zstd": Kind.BAG,
        "a.h5": Kind.OTHER,
        "a": Kind.OTHER,
    }
    assert {name: kind_of(Path(name)) for name in kinds} == kinds


def test_a_plug_in_for_heif_is_used_where_it_is_installed(monkeypatch):
    plugin = ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: Image.register_extension("PNG", ".heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    picture_suffixes.cache_clear()
    assert ".heic" in picture_suffixes()
    picture_suffixes.cache_clear()


def test_heif_under_another_name_is_called_what_it_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(ImageError, match="holds HEIF .*pillow-heif"):
        load_image(tmp_path / "a.jpg")
    (tmp_path / "a.cr2").write_bytes(b"II" + bytes(50))
    with pytest.raises(ImageError, match=r"an image that Pillow cannot read \(.cr2\)"):
        load_image(tmp_path / "a.cr2")


def test_a_folder_of_videos_or_bags_says_what_to_do(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "b.bag").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"it holds 1 .mp4 \(a video: give it by itself\), 1 .bag \(a bag: give it"):
        open_source(tmp_path)


def test_linked_folders_are_named(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cam").symlink_to(tmp_path / "elsewhere")
    save(tmp_path / "in" / "a.png", np.zeros((2, 3), dtype=np.uint8))
    assert open_source(tmp_path / "in").left_out == "1 linked folder (give it by itself)"


def write_video(path: Path, frames: int, codec: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), index * 8, dtype=np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a.mkv", "MJPG"), ("a.mts", "mp4v")]
)
def test_a_video_that_ends_early_says_so_and_a_whole_one_does_not(tmp_path, name, codec):
    path = write_video(tmp_path / name, 30, codec)
    assert len(names_and_images(path)) == 30
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    *frames, last = open_source(path).images
    assert 3 <= len(frames) < 30 or name == "a.mts"
    if name != "a.mts":  # a stream announces nothing
        with pytest.raises(ImageError, match=f"a.* announces 30 frames, and only {len(frames)} can be decoded"):
            last.load()


def test_announced_lengths_that_are_only_estimates_raise_no_alarm():
    assert _ends_early(30, 10, 15, 1.4)  # cut in half
    assert not _ends_early(10_000, 1000, 300, 9.97)  # a variable rate: OpenCV multiplies the duration with the finest
    assert not _ends_early(302, 30, 300, 9.97)  # the sound is a little longer
    assert not _ends_early(300, 30, 298, 9.9)  # an edit list hides two frames
    assert not _ends_early(300, 30, 100, 0.0)  # no times
    assert not _ends_early(-9, 30, 100, 3.3) and not _ends_early(0, 0, 100, 3.3)
    assert _ends_early(108_000, 30, 106_000, 106_000 / 30)  # a minute of an hour


def test_a_file_of_another_suffix_is_tried_as_a_video(tmp_path):
    for name in ("clip.vid", "clip"):
        write_video(tmp_path / "a.avi", 3).rename(tmp_path / name)
        assert len(names_and_images(tmp_path / name)) == 3
    (tmp_path / "a.txt").write_text("text, which FFmpeg would play\n" * 100)
    (source,) = open_source(tmp_path / "a.txt").images
    with pytest.raises(ImageError, match="not an image in a known format"):
        source.load()


def test_names_stay_unique_where_the_full_name_of_one_is_the_short_one_of_another(tmp_path):
    for name in ("a.jpg", "a.png", "a.jpg.png", "b.png", "b.png.png"):
        save(tmp_path / name, np.zeros((2, 3), dtype=np.uint8))
    assert sorted(names_and_images(tmp_path)) == ["a.jpg", "a.jpg.png", "a.png", "b", "b.png"]


def test_what_is_no_file_in_a_folder_is_left_out_and_told(tmp_path):
    save(tmp_path / "a.png", np.zeros((2, 3), dtype=np.uint8))
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    source = open_source(tmp_path, exclude=tmp_path / "out")
    assert [image.name for image in source.images] == ["a"]
    assert [name for name, _ in source.unread] == ["gone.jpg", "loop.jpg", "pipe.jpg"]
    reasons = " ".join(reason for _, reason in source.unread)
    assert reasons.count("a link to nothing") == 2 and "no file but a pipe" in reasons
    with pytest.raises(ImageError, match="gone.jpg is a link to nothing; give an image"):
        open_source(tmp_path / "gone.jpg")


def test_a_subfolder_that_cannot_be_read_costs_only_itself(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    save(tmp_path / "a.png", np.zeros((2, 3), dtype=np.uint8))
    scan = os.scandir

    def scandir(path):
        if Path(path) == tmp_path / "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = open_source(tmp_path)
    assert [image.name for image in source.images] == ["a"]
    assert source.left_out == "1 folder (permission denied: make it readable)"
    assert source.unread == (("closed", f"{tmp_path / 'closed'}: permission denied: make it readable"),)
    with pytest.raises(PermissionError):  # of a data set, nothing is left out
        files_below(tmp_path)


def test_a_picture_that_may_not_be_read_or_is_empty_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"empty.jpg \(0 bytes\) is empty; copy it again"):
        load_image(tmp_path / "empty.jpg")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match=r"empty.jpg cannot be read: Permission denied; make it readable$"):
        load_image(tmp_path / "empty.jpg")


def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "a.png", np.zeros((11, 11), dtype=np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(path).shape == (11, 11, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_frames_and_pages_are_counted(tmp_path, name):
    first, *others = (Image.new("RGB", (8, 6), (index * 60, 0, 0)) for index in range(3))
    first.save(tmp_path / name, save_all=True, append_images=others)
    assert frames_in(tmp_path / name) == 3
    first.save(tmp_path / "one.png")
    assert frames_in(tmp_path / "one.png") == 1
    first.save(tmp_path / "a.mpo", save_all=True, append_images=others)
    assert frames_in(tmp_path / "a.mpo") == 1
