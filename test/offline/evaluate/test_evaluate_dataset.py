"""`ovseg evaluate --data` from files to figures: known predictions give known figures, and nothing is lost."""

import json

import cv2
import numpy as np
import pytest

from ovseg_ros.offline.cli.main import main
from ovseg_ros.sim.categories import TABLETOP_SPECS


def evaluate(folder, *options, json_path=None):
    arguments = ["evaluate", "--data", "tabletop", "--root", str(folder), "--split", "test", *map(str, options)]
    return main([*arguments, *(["--json", str(json_path)] if json_path else [])])


def figures(folder, tmp_path, *options, code=0):
    path = tmp_path / "figures.json"
    path.unlink(missing_ok=True)
    assert evaluate(folder, *options, json_path=path) == code
    return json.loads(path.read_text())


def test_a_perfect_prediction_scores_100_everywhere(painted, tmp_path, capsys):
    painted.use(painted.segmenter())
    found = figures(painted.write_folder(tmp_path / "data", 4), tmp_path)
    for group in ("all", "things", "stuff"):
        expected = 100.0 if found[group]["categories"] else None
        assert [found[group][key] for key in ("pq", "sq", "rq")] == [expected] * 3
    assert found["all"]["pq_ci95"] == [100.0, 100.0]
    assert found["miou"] == found["ap"]["ap"] == found["mask_recall_50"] == found["mask_recall_75"] == 100.0
    assert found["confusion"] == [] and found["images"] == 4 and found["skipped"] == {}
    assert set(found["per_category"]) == set(painted.names)
    assert found["per_category"][painted.names[0]]["tp"] == found["per_category"][painted.names[0]]["tp"]
    assert "PQ" in capsys.readouterr().out


def test_crowd_regions_are_neither_found_nor_missed(painted, tmp_path):
    painted.use(painted.segmenter())
    found = figures(painted.write_folder(tmp_path / "data", 4, crowd={0, 1, 2, 3}), tmp_path)
    assert found["all"]["pq"] == found["miou"] == found["mask_recall_50"] == 100.0
    row = found["per_category"][painted.names[0]]
    assert (row.get("tp", 0), row.get("fp", 0), row.get("fn", 0)) == (0, 0, 0)


def test_confusions_are_counted_and_the_oracle_of_classes_mends_them(painted, tmp_path):
    painted.use(painted.segmenter(mistakes={1: 2}))
    folder = painted.write_folder(tmp_path / "data", 5)
    wrong = figures(folder, tmp_path)
    [pair] = wrong["confusion"]
    assert (pair["truth"], pair["predicted"], pair["share"]) == (painted.names[1], painted.names[2], 100.0)
    assert wrong["per_category"][painted.names[1]]["pq"] == 0.0
    assert (
        wrong["per_category"][painted.names[1]]["fn"] == pair["count"] == wrong["per_category"][painted.names[2]]["fp"]
    )
    assert wrong["mask_recall_50"] == 100.0
    right = figures(folder, tmp_path, "--oracle", "classes")
    assert right["all"]["pq"] == right["miou"] == right["ap"]["ap"] == 100.0
    masks = figures(folder, tmp_path, "--oracle", "masks")
    assert masks["all"] == wrong["all"]
    assert 0 < masks["mask_accuracy"] < 100


def test_the_oracle_of_masks_mends_a_blind_generator(painted, tmp_path):
    painted.use(painted.segmenter(blind=(0, 1, 2)))
    folder = painted.write_folder(tmp_path / "data", 3)
    blind = figures(folder, tmp_path)
    assert blind["all"]["pq"] < 60 and blind["mask_recall_50"] < 60
    assert figures(folder, tmp_path, "--oracle", "classes")["all"]["pq"] == blind["all"]["pq"]
    masks = figures(folder, tmp_path, "--oracle", "masks")
    assert masks["all"]["pq"] == masks["mask_accuracy"] == masks["mask_recall_75"] == 100.0


@pytest.mark.parametrize("oracle", [(), ("--oracle", "masks"), ("--oracle", "classes")])
def test_no_proposals_at_all_is_zero_and_no_error(painted, tmp_path, oracle):
    painted.use(painted.segmenter(blind=range(6)))
    found = figures(painted.write_folder(tmp_path / "data", 2), tmp_path, *oracle)
    if oracle == ("--oracle", "masks"):
        assert found["all"]["pq"] == 100.0
    else:
        assert found["all"]["pq"] == found["miou"] == found["ap"]["ap"] == found["mask_recall_50"] == 0.0


def test_images_with_nothing_to_find_are_named_and_counted(painted, tmp_path):
    painted.use(painted.segmenter())
    found = figures(painted.write_folder(tmp_path / "data", 3, void={1}), tmp_path, "--oracle", "masks")
    assert found["void"] == ["000001"] and found["images"] == 2 and found["all"]["pq"] == 100.0
    nothing = figures(painted.write_folder(tmp_path / "void", 1, void={0}), tmp_path)
    assert nothing["all"]["pq"] is None and nothing["miou"] is None and nothing["ap"]["ap"] is None


def break_files(folder):
    (folder / "images" / "000000.png").write_bytes(b"not an image")
    (folder / "panoptic" / "000001.png").unlink()
    cv2.imwrite(str(folder / "panoptic" / "000002.png"), np.zeros((5, 5, 3), np.uint8))
    content = (folder / "images" / "000003.png").read_bytes()
    (folder / "images" / "000003.png").write_bytes(content[: len(content) // 2])


def test_broken_images_are_named_and_skipped_or_stop_the_run(painted, tmp_path, capsys):
    painted.use(painted.segmenter())
    folder = painted.write_folder(tmp_path / "data", 6)
    break_files(folder)
    found = figures(folder, tmp_path, code=1)
    assert sorted(found["skipped"]) == ["000000", "000001", "000002", "000003"]
    assert found["images"] == 2 and found["all"]["pq"] == 100.0
    for number, reason in found["skipped"].items():
        assert f"{number}.png" in reason
    assert "4 images skipped" in capsys.readouterr().out
    assert evaluate(folder, "--on-error", "stop") == 2
    assert "000000.png" in capsys.readouterr().err


def test_vocabularies_of_another_length_or_order_are_refused(painted, tmp_path, capsys):
    painted.use(painted.segmenter())
    folder = painted.write_folder(tmp_path / "data", 1)
    assert evaluate(folder, "--vocabulary", "cup, table") == 2
    assert "2 categories, but the data set has 100" in capsys.readouterr().err
    names = [spec.name for spec in TABLETOP_SPECS]
    assert evaluate(folder, "--vocabulary", ", ".join(reversed(names))) == 2
    assert "order" in capsys.readouterr().err
    words = ", ".join(f"odd thing {i}" for i in range(100))
    assert figures(folder, tmp_path, "--vocabulary", words)["all"]["pq"] == 100.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--dataset", "x", "--data", "tabletop"],
            "--data would change nothing: --dataset DIR is short for --data tabletop --root DIR; leave it out",
        ),
        (["--dataset", "coco_panoptic"], "--dataset coco_panoptic is no folder; did you mean --data coco_panoptic?"),
        (["--dataset", "coco_panoptic", "--root", "x"], "did you mean --data coco_panoptic?"),
        (["--dataset", "my.yaml"], "--dataset my.yaml is no folder; did you mean --data my.yaml?"),
        (["--merge", "x", "--data", "tabletop"], "--data would change nothing: the files of --merge say what"),
        (
            ["--merge", "x", "--preset", "tabletop", "--on-error", "stop"],
            "--preset and --on-error would change nothing",
        ),
        (
            ["--merge", "x", "--device", "cpu", "--root", "y"],
            "--root and --device would change nothing: --merge segments",
        ),
        (["--merge", "x", "./y", "--json", "y"], "--json y is a file of --merge too, which it would replace"),
        (["--partial", "./y", "--json", "y"], "--json y is a file of --partial too"),
        (["--shard", "0/0", "--partial", "p"], "shard 0/0 does not exist; expected I/N with I from 1 to N"),
        (["--shard", "3/2", "--partial", "p"], "shard 3/2 does not exist; expected I/N with I from 1 to N"),
        (["--shard", "a/b", "--partial", "p"], "shard 'a/b' is not I/N"),
        (["--data", "no_such_data", "--root", "x"], "no_such_data"),
        (["--data", "tabletop", "--root", "no/such/folder", "--split", "test"], "no/such/folder"),
        (["--data", "tabletop", "--root", "x", "--shard", "1/2"], "--partial"),
        (["--data", "tabletop", "--root", "x", "--shard", "0/2"], "0/2"),
        (["--data", "tabletop", "--root", "x", "--shard", "two"], "I/N"),
        (["--data", "tabletop", "--root", "x", "--shard", "1/2", "--partial", "p", "--json", "j"], "--merge"),
        (["--merge", "no/such/part"], "no/such/part"),
    ],
)
def test_contradictory_command_lines_are_refused(options, reason, capsys):
    assert main(["evaluate", *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_semantic_data_set_has_a_mean_iou_and_nothing_of_instances(painted, tmp_path):
    painted.use(painted.segmenter(mistakes={5: 4}))
    source = painted.write_folder(tmp_path / "data", 3, void={2})
    root = tmp_path / "ade"
    for folder in ("images/validation", "annotations/validation"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        picture = cv2.imread(str(source / "images" / f"{number:06d}.png"))
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        quality = [cv2.IMWRITE_JPEG_QUALITY, 100, *sampling]  # all but lossless
        cv2.imwrite(str(root / "images" / "validation" / f"{number}.jpg"), picture, quality)
        labels = cv2.imread(str(source / "panoptic" / f"{number:06d}.png"))[..., 2]  # 0 = no category, 1 = the first
        cv2.imwrite(str(root / "annotations" / "validation" / f"{number}.png"), labels)
    arguments = ["evaluate", "--data", "ade20k_semantic", "--root", str(root)]
    found = {}
    for oracle in ("", "masks", "classes"):
        path = tmp_path / f"{oracle}.json"
        extra = ["--oracle", oracle] if oracle else []
        report = ["--report", str(tmp_path / "report")]
        assert main([*arguments, *extra, *report, "--json", str(path)]) == 0
        found[oracle] = json.loads(path.read_text())
        assert not {"all", "ap", "mask_recall_50", "confusion"} & found[oracle].keys()
        assert found[oracle]["void"] == ["2"] and found[oracle]["miou_categories"] == 6
    assert found["classes"]["miou"] == 100.0
    right = [row["iou"] for name, row in found[""]["per_category"].items() if name not in ("tree", "ceiling")]
    assert len(right) == 4 and set(right) == {100.0} and found[""]["miou"] < 100.0  # tree is taken for ceiling
    assert found["masks"]["per_category"] == found[""]["per_category"]
    assert "Lowest mIoU" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_coco_stuff_as_downloaded_has_a_mean_iou(painted, tmp_path):
    painted.use(painted.segmenter(mistakes={5: 4}))
    source = painted.write_folder(tmp_path / "data", 2)
    for folder in ("val2017", "stuffthingmaps/val2017"):
        (tmp_path / "coco" / folder).mkdir(parents=True)
    for number in range(2):
        picture = cv2.imread(str(source / "images" / f"{number:06d}.png"))
        cv2.imwrite(str(tmp_path / "coco" / "val2017" / f"{number}.png"), picture)
        values = cv2.imread(str(source / "panoptic" / f"{number:06d}.png"))[..., 2] - 1  # of no category: 255
        cv2.imwrite(str(tmp_path / "coco" / "stuffthingmaps" / "val2017" / f"{number}.png"), values)
    path = tmp_path / "figures.json"
    arguments = ["--data", "coco_stuff_download", "--root", str(tmp_path / "coco"), "--json", str(path)]
    assert main(["evaluate", *arguments]) == 0
    found = json.loads(path.read_text())
    ious = {name: row["iou"] for name, row in found["per_category"].items() if row["iou"] is not None}
    assert found["miou_categories"] == len(ious) == 6 and "all" not in found
    assert [name for name, iou in ious.items() if iou < 100] == ["airplane", "bus"]  # the second is taken for the first
    assert found["miou"] == pytest.approx(sum(ious.values()) / 6, abs=0.01)
