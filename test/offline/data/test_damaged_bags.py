"""Damaged and killed recordings: a line with the place, what was read is kept, and nothing is left out silently."""

import random
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_scenes import STORE, STORE_1, image, jpeg, write_bag, write_bag_1
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from ovseg_ros.core.errors import DatasetError, ImageError
from ovseg_ros.offline.data.bag_files import find_recording, is_bag
from ovseg_ros.offline.data.bag_images import BagImage, open_bag_images
from ovseg_ros.offline.data.bag_parts import fingerprint
from ovseg_ros.offline.data.images import open_source

COUNT = 8
SQLITE, MCAP = StoragePlugin.SQLITE3, StoragePlugin.MCAP


def images(count: int = COUNT) -> dict:
    return {"/image": [image(index) for index in range(count)]}


def the_file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.name != "metadata.yaml")


def write_all_kinds(folder: Path) -> dict[str, Path]:
    old = [image(index, STORE_1) for index in range(COUNT)]
    return {
        "db3": the_file(write_bag(folder / "a", images(), plugin=SQLITE)),
        "mcap": the_file(write_bag(folder / "b", images())),
        "mcap zstd": the_file(write_bag(folder / "c", images(), packed=CompressionMode.STORAGE)),
        "db3 zstd": write_bag(folder / "d", images(), plugin=SQLITE, packed=CompressionMode.FILE),
        "messages zstd": write_bag(folder / "e", images(), packed=CompressionMode.MESSAGE),
        "bag": write_bag_1(folder / "f.bag", old),
        "bag bz2": write_bag_1(folder / "g.bag", old, Writer1.CompressionFormat.BZ2),
        "bag lz4": write_bag_1(folder / "h.bag", old, Writer1.CompressionFormat.LZ4),
    }


def read(path: Path, *topics: str) -> tuple[list[BagImage], list[str]]:
    """The images, and what was said to be missing."""
    with open_bag_images(path, topics) as bag:
        return list(bag), bag.faults


def test_whole_recordings_of_every_kind_are_read(tmp_path):
    for kind, path in write_all_kinds(tmp_path).items():
        found, faults = read(path)
        assert ([item.message.header.stamp.sec for item in found], faults) == (list(range(100, 108)), []), kind


def test_whatever_a_damage_makes_the_library_raise_is_told_and_nothing_is_lost_silently(tmp_path):
    chance = random.Random(5)
    for kind, whole in write_all_kinds(tmp_path / "whole").items():
        for number in range(25):
            path = tmp_path / "damaged" / whole.name
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            (shutil.copytree if whole.is_dir() else shutil.copy)(whole, path)
            file = the_file(path) if path.is_dir() else path
            content = bytearray(file.read_bytes())
            # Every other one near the end, where the indices are.
            start = chance.randrange(len(content)) if number % 2 else len(content) - chance.randrange(1, 400)
            match chance.randrange(4):
                case 0:
                    del content[start:]
                case 1:
                    content[start] ^= 1 << chance.randrange(8)
                case 2:
                    content[start : start + 40] = bytes(len(content[start : start + 40]))
                case 3:
                    content[start : start + 40] = chance.randbytes(len(content[start : start + 40]))
            file.write_bytes(content)
            try:
                found, faults = read(path)
            except DatasetError as error:
                found, faults = [], [str(error)]
            assert len(found) == COUNT or faults, (kind, number)
            assert all("\n" not in fault and path.name in fault for fault in faults), (kind, number, faults)


def test_the_place_of_a_damage_is_told_and_what_was_before_it_is_kept(tmp_path):
    file = write_bag_1(tmp_path / "a.bag", [image(index, STORE_1) for index in range(COUNT)])
    content = file.read_bytes()
    fifth = content.index(b"camera_5") - 40
    file.write_bytes(content[:fifth] + b"\xff" * 30 + content[fifth + 30 :])
    found, (fault,) = read(file)
    assert len(found) < COUNT
    assert f"after {len(found)} of 8 images" in fault and f"/image at {len(found)}.000 s" in fault
    assert "reindex" not in fault  # its index is whole


def test_the_consumers_own_errors_are_not_taken_for_damages(tmp_path):
    path = write_bag(tmp_path / "a", images())
    with pytest.raises(ZeroDivisionError), open_bag_images(path, ()) as bag:
        for _ in bag:
            _ = 1 / 0
    assert not bag.faults


def test_what_an_index_no_longer_leads_to_is_found_without_it(tmp_path):
    file = write_bag_1(tmp_path / "a.bag", [image(index, STORE_1) for index in range(COUNT)])
    content = bytearray(file.read_bytes())
    for index in range(4, COUNT):  # the offsets of these messages, in the index behind the chunk
        place = content.rindex((index + 1).to_bytes(4, "little") + bytes(4), 0, content.rindex(b"chunk_pos="))
        content[place + 8 : place + 12] = b"\xff\xff\xff\x7f"
    file.write_bytes(content)
    found, (fault,) = read(file)
    assert sorted(item.message.header.stamp.sec for item in found) == list(range(100, 108))
    assert "after 4 of 8 images" in fault and "Without its index, 4 more were found" in fault


def test_a_torn_time_or_topic_of_a_database_is_a_damage(tmp_path):
    path = write_bag(tmp_path / "a", images(), plugin=SQLITE)
    database = sqlite3.connect(the_file(path))
    database.execute("UPDATE messages SET timestamp = 'x' WHERE id = 5")
    database.commit()
    found, (fault,) = read(the_file(path))
    assert len(found) == 7 and "after 7 of 8 images" in fault
    database.execute("PRAGMA writable_schema = 1")
    database.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'topics'")
    database.commit()
    database.close()
    database = sqlite3.connect(the_file(path))
    database.execute("UPDATE topics SET name = NULL")
    database.commit()
    database.close()
    with pytest.raises(DatasetError, match="its topics: none; .*1 of the 1 rows in its table of topics are torn"):
        read(the_file(path))


def test_an_mcap_without_its_end_is_read_from_its_beginning(tmp_path):
    file = the_file(write_bag(tmp_path / "a", images()))
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"\x0f" + (4).to_bytes(8, "little"))])  # killed before the data's end
    found, (fault,) = read(file.parent)
    assert len(found) == COUNT
    assert "it has no end" in fault and "mcap recover" in fault and "reindex" not in fault


def test_a_killed_ros_1_recording_is_read_from_its_beginning(tmp_path):
    whole = write_bag_1(tmp_path / "a.bag", [image(index, STORE_1) for index in range(COUNT)])
    content = whole.read_bytes()
    place = content.index(b"index_pos=") + len(b"index_pos=")
    file = tmp_path / "a.bag.active"
    file.write_bytes(content[:place] + bytes(8) + content[place + 8 : content.index(b"camera_6")])
    assert is_bag(file)
    found, (fault,) = read(file)
    assert [item.received for item in found if not item.fault] == [(index + 1) * 10**9 for index in range(6)]
    assert "rosbag reindex" in fault
    file.write_bytes(content[:place] + bytes(8) + content[place + 8 :])
    found, (fault,) = read(file)
    assert [item.received for item in found] == [(index + 1) * 10**9 for index in range(COUNT)]
    assert "not indexed" in fault and "it gave 8 images" in fault and "rosbag reindex" in fault


@pytest.mark.parametrize("plugin", [SQLITE, MCAP])
def test_a_folder_without_metadata_is_read_by_its_files(tmp_path, plugin):
    path = write_bag(tmp_path / "rec", images(), plugin=plugin)
    (path / "metadata.yaml").unlink()
    assert is_bag(path)
    found, faults = read(path)
    assert (len(found), faults) == (COUNT, [])
    (note,) = find_recording(path).notes
    assert "metadata.yaml is missing" in note and "ros2 bag reindex" in note
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: [torn")
    assert len(read(path)[0]) == COUNT


def test_parts_are_in_order_and_other_recordings_in_a_folder_are_asked_for(tmp_path):
    folder = tmp_path / "rec"
    folder.mkdir()
    for number in (10, 9, 0):
        file = the_file(write_bag(tmp_path / f"part{number}", {"/image": [image(number)]}))
        shutil.copy(file, folder / f"rec_{number}.mcap")
    assert [item.message.header.stamp.sec for item in read(folder)[0]] == [100, 109, 110]
    shutil.copy(file, folder / "other_0.mcap")
    with pytest.raises(DatasetError, match="2 recordings .*other_0.mcap.*give one file"):
        read(folder)


def change_metadata(folder: Path, **values: object) -> None:
    path = folder / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    content["rosbag2_bagfile_information"] |= values
    path.write_text(yaml.safe_dump(content))


def test_the_storage_is_known_by_the_suffix_where_reindexing_left_none(tmp_path):
    path = write_bag(tmp_path / "a", images())
    change_metadata(path, storage_identifier="")
    assert len(read(path)[0]) == COUNT


def test_messages_that_metadata_announces_and_no_file_holds_are_missed(tmp_path):
    path = write_bag(tmp_path / "a", images(), plugin=SQLITE)
    database = sqlite3.connect(the_file(path))
    database.execute("DELETE FROM messages WHERE id > 5")
    database.commit()
    database.close()
    found, (fault,) = read(path)
    assert len(found) == 5
    assert "metadata.yaml announces 8 images of /image, and its files hold 5" in fault
    (path / "a.db3-wal").write_bytes(b"left by a kill")
    assert "wal_checkpoint" in read(path)[1][0]


def test_a_part_that_is_missing_or_not_listed_costs_only_itself(tmp_path):
    path = write_bag(tmp_path / "a", images())
    change_metadata(path, relative_file_paths=["a.mcap", "a_1.mcap"])
    found, (fault,) = read(path)
    assert len(found) == COUNT and "a_1.mcap is missing" in fault
    (path / "a_1.mcap").write_bytes(b"")
    found, (fault,) = read(path)
    assert len(found) == COUNT and "a_1.mcap cannot be read as a bag: it is empty" in fault and "recover" not in fault
    change_metadata(path, relative_file_paths=["a.mcap"])
    assert "a_1.mcap in" in read(path)[1][0] and "not listed" in read(path)[1][0]


def test_a_compressed_file_is_read_by_itself(tmp_path):
    path = write_bag(tmp_path / "a", images(), plugin=SQLITE, packed=CompressionMode.FILE)
    file = the_file(path)
    assert file.name.endswith(".db3.zstd") and is_bag(file)
    assert len(read(file)[0]) == COUNT


@pytest.mark.parametrize(
    "schema",
    [
        "int32 a\n---\nint32 b\n",  # a service event's is the .srv
        "wstring<=3 text\n",
        "std_msgs/Header header\r\nother_msgs/Gone gone\r\n",
        'string A="quoted # text"\nthis is no schema {\n',
    ],
)
def test_topics_that_are_not_read_do_not_matter(tmp_path, schema):
    path = write_bag(tmp_path / "a", images() | {"/text": [STORE.types["std_msgs/msg/String"](data="x")]})
    file = the_file(path)
    content = file.read_bytes()
    old = b"string data\n"
    assert old in content
    file.write_bytes(content.replace(old, schema.encode()[: len(old)].ljust(len(old))))
    found, faults = read(path)
    assert (len(found), faults) == (COUNT, [])


@pytest.mark.parametrize("encoding", ["jsonschema", "unknown"])
def test_schemas_of_another_encoding_do_not_matter(tmp_path, encoding):
    path = write_bag(tmp_path / "a", images(), plugin=SQLITE)
    database = sqlite3.connect(the_file(path))
    database.execute("UPDATE message_definitions SET encoding = ?", (encoding,))
    database.commit()
    database.close()
    assert len(read(path)[0]) == COUNT
    file = the_file(write_bag(tmp_path / "b", images()))
    file.write_bytes(file.read_bytes().replace(b"ros2msg", b"protobf"))
    assert len(read(file)[0]) == COUNT


def test_choosing_a_topic_says_what_there_is(tmp_path):
    text = STORE.types["std_msgs/msg/String"](data="x")
    depth = write_bag(tmp_path / "depth", {"/cam/depth/image": [image(0)], "/text": [text]})
    with pytest.raises(DatasetError, match=r"holds only a depth topic \(/cam/depth/image\).*--topic /cam/depth/image"):
        read(depth)
    assert len(read(depth, "/cam/depth/image")[0]) == 1
    with pytest.raises(DatasetError, match="/text holds std_msgs/msg/String, no images; image topics: /cam"):
        read(depth, "/text")
    with pytest.raises(DatasetError, match=r"no image topic .*; its topics: /text \(std_msgs/msg/String\)"):
        read(write_bag(tmp_path / "text", {"/text": [text]}))
    assert [item.topic for item in read(write_bag(tmp_path / "jpeg", {"/a/compressed": [jpeg(0)]}))[0]] == [
        "/a/compressed"
    ]


def test_a_folder_with_pictures_is_no_bag(tmp_path):
    shutil.copy(the_file(write_bag(tmp_path / "a", images())), tmp_path / "rec.mcap")
    (tmp_path / "a.jpg").write_bytes(b"")
    assert not is_bag(tmp_path)
    assert is_bag(tmp_path / "rec.mcap") and is_bag(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "metadata.yaml").write_text("of: something else")
    assert not is_bag(tmp_path / "notes")


def noise(count: int = 8) -> dict:
    """Images that no compression makes smaller, 64 kB each."""
    chance = np.random.default_rng(0)
    messages = [image(index, height=2730) for index in range(count)]
    for message in messages:
        message.data = chance.integers(0, 256, message.data.size, dtype=np.uint8)
    return {"/image": messages}


@pytest.mark.parametrize("packed", [None, CompressionMode.STORAGE])
def test_of_a_chunk_that_is_cut_short_the_whole_messages_are_read(tmp_path, packed):
    file = the_file(write_bag(tmp_path / "a", noise(), packed=packed))
    content = file.read_bytes()
    file.write_bytes(content[: 5 * len(content) // 8])
    found, (fault,) = read(file)
    assert [item.message.header.stamp.sec for item in found] == list(range(100, 100 + len(found)))
    assert len(found) in (3, 4, 5) and "it has no end" in fault


@pytest.mark.parametrize("packed", [None, CompressionMode.FILE])
def test_of_a_database_that_is_cut_short_what_is_there_is_read(tmp_path, packed):
    file = the_file(write_bag(tmp_path / "a", noise(), plugin=SQLITE, packed=packed))
    content = file.read_bytes()
    file.write_bytes(content[: 5 * len(content) // 8])
    found, faults = read(file)
    assert [item.message.header.stamp.sec for item in found] == list(range(100, 100 + len(found)))
    assert len(found) in (3, 4, 5)
    assert ("the copy was cut short; copy it again" in faults[0]) == (packed is not None)
    file.write_bytes(content[:200])
    with pytest.raises(
        DatasetError, match="the copy was cut short" if packed else "it has 200 of its 5.* bytes: the copy"
    ):
        read(file)


@pytest.mark.parametrize("plugin", [SQLITE, MCAP])
def test_messages_compressed_one_by_one_are_known_without_metadata(tmp_path, plugin):
    path = write_bag(tmp_path / "a", images(), plugin=plugin, packed=CompressionMode.MESSAGE)
    file = the_file(path)
    (path / "metadata.yaml").unlink()
    for source in (file, path):
        found, faults = read(source)
        assert ([item.fault for item in found], faults) == ([""] * COUNT, [])


def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    file = the_file(write_bag(tmp_path / "a", images()))

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DatasetError) as raised:
        read(file)
    assert str(raised.value) == f"{file} cannot be read: Permission denied; make it readable"
    fingerprint(file)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x.mcap.zst", "is a compressed bag: unpack it"),
        ("x.db3.gz", "is a compressed bag: unpack it"),
        ("rec.tar", "is an archive: unpack it"),
        ("rec/metadata.yaml", "describes a bag: give the folder that it is in, .*/rec$"),
    ],
)
def test_what_has_to_be_unpacked_or_is_in_a_bag_is_told(tmp_path, name, told):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    assert not is_bag(tmp_path / name)
    with pytest.raises(ImageError, match=told):
        open_source(tmp_path / name)
