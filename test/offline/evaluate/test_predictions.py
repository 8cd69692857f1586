"""Predictions in files: from them and the truth's files, the benchmarks' own rules give the report's figures."""

import errno
import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.open import dataset_info, open_dataset
from ovseg_ros.offline.evaluate.predictions import Predictions, _label_values

OWN_IDS = (1, 2, 3, 4, 92, 13)
"""COCO's ids, which have gaps, of what has the colours of the painted world; 92 is stuff."""
_INDEX = {c.dataset_id: c.index for c in dataset_info("coco_panoptic").categories()}
NAMES = {2: 3, 4: _INDEX[92], 5: _INDEX[13]}
"""What the segmenter takes them for; it takes the third for the fourth."""
VOID, PLAIN = 3, 5
"""An image without truth, though it shows something, and one without predictions, though there is something."""


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coco")


@pytest.fixture
def coco(painted, module_folder):
    """A folder as COCO's, with images in subfolders, of 8 images, and the segmenter in use."""
    painted.use(painted.segmenter(mistakes=NAMES, shift=2))
    if not (module_folder / "annotations").exists():
        write_coco(painted.write_folder(module_folder / "source", 8, crowd={1, 4}), module_folder)
    return module_folder


def write_coco(source, root):
    index = json.loads((source / "panoptic.json").read_text())
    for number, (image, annotation) in enumerate(zip(index["images"], index["annotations"], strict=True)):
        name, own = image["file_name"], f"city/{number:06d}.png"
        picture, truth = (cv2.imread(str(source / folder / name)) for folder in ("images", "panoptic"))
        if number == VOID:
            annotation["segments_info"], truth = [], truth * 0
        if number == PLAIN:
            picture[:] = 40
        for folder, content in (("val2017", picture), ("panoptic_val2017", truth * 40)):
            (root / folder / "city").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / own), content)
        image |= {"id": 7 * number + 3, "file_name": own}
        annotation |= {"image_id": image["id"], "file_name": own}
        for info in annotation["segments_info"]:
            info |= {"category_id": OWN_IDS[info["id"] - 1], "id": info["id"] * 40}
    index["categories"] = [
        {"id": c.dataset_id, "name": c.name, "supercategory": f"kind {c.index % 7}", "isthing": int(c.is_thing)}
        for c in dataset_info("coco_panoptic").categories()
    ]
    (root / "annotations").mkdir()
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(index))


def evaluate(root, *options):
    return main(["evaluate", "coco_panoptic", "--root", str(root), *map(str, options)])


def segment_ids(path):
    r, g, b = np.moveaxis(np.asarray(Image.open(path).convert("RGB")).astype(np.int64), -1, 0)
    return r + 256 * g + 65536 * b


def quality_by_the_rules(truth_json, truth_folder, predicted_json, predicted_folder):
    """PQ, SQ and RQ in percent by category id, from the files alone, segment by segment as panopticapi's rules say."""
    found_of = {annotation["image_id"]: annotation for annotation in predicted_json["annotations"]}
    known = {category["id"] for category in truth_json["categories"]}
    tp, fp, fn, iou_sum = (defaultdict(float) for _ in range(4))
    for annotation in truth_json["annotations"]:
        found = found_of[annotation["image_id"]]
        truth, predicted = (
            segment_ids(folder / entry["file_name"])
            for folder, entry in ((truth_folder, annotation), (predicted_folder, found))
        )
        true = {info["id"]: info for info in annotation["segments_info"]}
        made = {info["id"]: info for info in found["segments_info"]}
        assert set(np.unique(predicted).tolist()) - {0} == set(made)
        assert all(info["category_id"] in known for info in made.values())
        matched = set()
        for t, true_info in true.items():
            for p, made_info in made.items():
                if true_info["iscrowd"] or true_info["category_id"] != made_info["category_id"]:
                    continue
                both = int(((truth == t) & (predicted == p)).sum())
                own, on_void = int((predicted == p).sum()), int(((truth == 0) & (predicted == p)).sum())
                assert own == made_info["area"]
                iou = both / (own + true_info["area"] - both - on_void)
                if iou > 0.5:
                    tp[true_info["category_id"]] += 1
                    iou_sum[true_info["category_id"]] += iou
                    matched |= {("true", t), ("made", p)}
        crowd = {info["category_id"]: t for t, info in true.items() if info["iscrowd"]}
        for t, info in true.items():
            if ("true", t) not in matched and not info["iscrowd"]:
                fn[info["category_id"]] += 1
        for p, info in made.items():
            forgiven = np.isin(truth, [0, crowd.get(info["category_id"], 0)]) & (predicted == p)
            if ("made", p) not in matched and forgiven.sum() / info["area"] <= 0.5:
                fp[info["category_id"]] += 1
    rows = {}
    for k in known:
        if total := tp[k] + fp[k] / 2 + fn[k] / 2:
            rows[k] = [100 * v for v in (iou_sum[k] / total, iou_sum[k] / tp[k] if tp[k] else 0, tp[k] / total)]
    return rows


def mean_iou_by_the_rules(truth_json, truth_folder, label_folder, ids_of_void):
    pixels = defaultdict(lambda: [0, 0, 0])
    for annotation in truth_json["annotations"]:
        truth = segment_ids(truth_folder / annotation["file_name"])
        labels = np.asarray(Image.open(label_folder / annotation["file_name"]))
        assert labels.dtype == np.uint8 and labels.shape == truth.shape
        category = np.full(truth.shape, ids_of_void)
        for info in annotation["segments_info"]:
            category[truth == info["id"]] = info["category_id"]
        for k in np.unique([category, labels]):
            inside = category != ids_of_void
            for place, mask in enumerate([(labels == k) & (category == k), labels == k, category == k]):
                pixels[int(k)][place] += int((mask & inside).sum())
    return {k: 100 * b / (p + t - b) for k, (b, p, t) in pixels.items() if t and k != ids_of_void}


def average_precision_by_pycocotools(truth_json, truth_folder, instances, image_ids):
    things = {category["id"] for category in truth_json["categories"] if category["isthing"]}
    entries = []
    for annotation in truth_json["annotations"]:
        truth = segment_ids(truth_folder / annotation["file_name"])
        for info in annotation["segments_info"]:
            if info["category_id"] in things:
                code = coco_mask.encode(np.asfortranarray(truth == info["id"], dtype=np.uint8))
                entries.append(
                    {
                        "id": len(entries) + 1,
                        "image_id": annotation["image_id"],
                        "category_id": info["category_id"],
                        "iscrowd": info["iscrowd"],
                        "segmentation": code,
                        "area": int(coco_mask.area(code)),
                    }
                )
    truth = COCO()
    truth.dataset = {"images": truth_json["images"], "annotations": entries, "categories": truth_json["categories"]}
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(str(instances)), "segm")
    evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * value if value > -1 else None for value in evaluation.stats[:6]]


def test_the_files_alone_give_the_report_s_figures(coco, tmp_path):
    out, figures_path = tmp_path / "out", tmp_path / "figures.json"
    assert evaluate(coco, "--predictions", out, "--json", figures_path) == 0
    figures = json.loads(figures_path.read_text())
    truth = json.loads((coco / "annotations" / "panoptic_val2017.json").read_text())
    made = json.loads((out / "panoptic.json").read_text())
    assert made["images"] == truth["images"] and made["categories"] == truth["categories"]
    segments = {a["image_id"]: a["segments_info"] for a in made["annotations"]}
    assert segments[7 * VOID + 3] and segments[7 * PLAIN + 3] == [] and made["skipped"] == []
    assert segments[3][0].keys() == {"id", "category_id", "score", "area", "bbox", "iscrowd"}
    assert made["info"]["preset"] == "tabletop" and str(coco) not in json.dumps(made)

    name_of = {category["id"]: category["name"] for category in truth["categories"]}
    rules = quality_by_the_rules(truth, coco / "panoptic_val2017", made, out / "panoptic")
    reported = {name: [row[key] for key in ("pq", "sq", "rq")] for name, row in figures["per_category"].items()}
    assert figures["void"] == [f"city/{VOID:06d}"] and {92, 13, 4} < set(rules) == set(OWN_IDS)
    for k, row in rules.items():
        assert reported[name_of[k]] == pytest.approx(row, rel=0, abs=1e-9)
    assert figures["all"]["pq"] == pytest.approx(sum(row[0] for row in rules.values()) / len(rules), rel=0, abs=1e-9)
    assert 0 < figures["all"]["pq"] < 90 and rules[3][0] == 0

    ious = mean_iou_by_the_rules(truth, coco / "panoptic_val2017", out / "semantic", 255)
    assert figures["miou"] == pytest.approx(sum(ious.values()) / len(ious), rel=0, abs=1e-9)
    assert len(ious) == figures["miou_categories"]

    counted = [image["id"] for image in truth["images"] if image["id"] != 7 * VOID + 3]
    found = average_precision_by_pycocotools(truth, coco / "panoptic_val2017", out / "instances.json", counted)
    assert found == [v if v is None else pytest.approx(v, rel=0, abs=1e-9) for v in figures["ap"].values()]
    assert 0 < figures["ap"]["ap"] < 90
    instances = json.loads((out / "instances.json").read_text())
    assert {entry["image_id"] for entry in instances} == {i for i, s in segments.items() if s}
    assert all(isinstance(entry["segmentation"]["counts"], str) for entry in instances)


def contents(folder):
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name != "plan.json"}


def test_parts_write_into_one_folder_and_the_merge_writes_the_index(coco, tmp_path, capsys):
    assert evaluate(coco, "--predictions", tmp_path / "whole", "--images", 6) == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 2 * 6 + 2
    parts = [tmp_path / f"{number}.jsonl" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        options = ["--shard", f"{number}/2", "--partial", part, "--images", 6]
        # The second part is begun without predictions.
        where = [["--predictions", tmp_path / "parts"], []][number - 1]
        assert evaluate(coco, *options, *where) == 0
    merge = ["evaluate", "--merge", *map(str, parts), "--predictions"]
    assert main([*merge, str(tmp_path / "parts")]) == 2
    assert "parts has predictions of 3 of 6 images; give its parts the same --predictions" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "panoptic.json").exists()
    assert evaluate(coco, *options, "--predictions", tmp_path / "parts") == 0
    assert f"3 images of {parts[1]} are evaluated again: their predictions are not in" in capsys.readouterr().err
    assert main([*merge, str(tmp_path / "parts")]) == 0
    assert contents(tmp_path / "parts") == whole
    assert main([*merge, str(tmp_path / "nowhere")]) == 2
    assert "plan.json is missing; choose the --predictions that the parts" in capsys.readouterr().err
    # Once more, where one file was lost.
    (tmp_path / "parts" / "semantic" / "city" / "000001.png").unlink()
    assert evaluate(coco, *options, "--predictions", tmp_path / "parts") == 0
    assert f"1 images of {parts[1]} are evaluated again" in capsys.readouterr().err
    assert contents(tmp_path / "parts") == whole


def test_a_folder_of_other_things_stays_as_it_is(coco, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(coco, "--images", 1, "--predictions", out) == 0
    before = contents(out)
    for options, reason in (
        (
            ["--images", 2, "--predictions", out],
            "out holds predictions of another evaluation: images is 1 and 2",
        ),
        (["--oracle", "classes", "--images", 1, "--predictions", out], "oracle is '' and 'classes'"),
        (["--images", 1, "--predictions", coco / "source"], "source holds panoptic.json and panoptic, but not of"),
        (["--predictions", out, "--json", out / "panoptic.json"], "panoptic.json is a file of --predictions too"),
    ):
        assert evaluate(coco, *options) == 2
        assert reason in capsys.readouterr().err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "plan.json").write_text('{"a": 1}')
    assert evaluate(coco, "--images", 1, "--predictions", tmp_path / "notes") == 2
    assert "choose the --predictions that the parts" in capsys.readouterr().err
    assert contents(out) == before
    assert evaluate(coco, "--images", 1, "--predictions", out) == 0  # the same once more
    assert contents(out) == before


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "ovseg: stopped"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "free some space and run the same command again"),
    ],
)
def test_a_run_that_was_stopped_leaves_no_index_and_goes_on(coco, tmp_path, monkeypatch, capsys, fault, code, told):
    out, options = tmp_path / "out", ["--images", 2, "--partial", tmp_path / "part.jsonl"]
    honest, written, faults = Path.write_bytes, [], [fault]

    def failing(path, content):
        written.append(path.parent.parent.name)  # semantic/ and panoptic/ of each image
        if faults and written.count("panoptic") == 2:
            honest(path, content[:9])
            raise faults.pop()
        return honest(path, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    assert evaluate(coco, *options, "--predictions", out) == code
    assert told in capsys.readouterr().err
    left = {"semantic/city/000000.png", "panoptic/city/000000.png", "semantic/city/000001.png"}
    assert set(contents(out)) == left
    assert evaluate(coco, *options, "--predictions", out) == 0
    assert written.count("semantic") == 3  # the first image was done
    assert set(contents(out)) == {*left, "panoptic/city/000001.png", "panoptic.json", "instances.json"}


def test_damaged_images_are_named_and_void_ones_segmented_under_oracles(painted, tmp_path):
    painted.use(painted.segmenter())
    folder = painted.write_folder(tmp_path / "data", 4, void={1})
    (folder / "images" / "000002.png").write_bytes(b"no image")
    index = json.loads((folder / "panoptic.json").read_text())
    for number, (image, annotation) in enumerate(zip(index["images"], index["annotations"], strict=True)):
        image["id"] = annotation["image_id"] = f"scene_{number}"
    (folder / "panoptic.json").write_text(json.dumps(index))
    for oracle in ("masks", "classes"):
        out = tmp_path / oracle
        how = ["--predictions", str(out), "--oracle", oracle, "--partial", str(tmp_path / f"{oracle}.jsonl")]
        for _ in range(2):  # the second goes on with nothing left but what is damaged
            assert main(["evaluate", "--dataset", str(folder), *how]) == 1
        made = json.loads((out / "panoptic.json").read_text())
        assert [a["image_id"] for a in made["annotations"]] == ["scene_0", "scene_1", "scene_3"]
        assert made["info"]["oracle"] == oracle
        [skipped] = made["skipped"]
        assert skipped["name"] == "000002" and "000002.png" in skipped["reason"]
        assert not (out / "panoptic" / "000002.png").exists() and made["annotations"][1]["segments_info"] == []


def test_label_maps_have_the_data_set_s_values_and_names(painted, tmp_path):
    """Cityscapes' ids have gaps, 0 says that there is none, and each city has a folder."""
    painted.use(painted.segmenter(blind=(1,)))
    source = painted.write_folder(tmp_path / "source", 3)
    ids = (7, 8, 11, 12, 13, 17)
    table = np.array([0, *ids], np.uint8)
    for number in range(3):
        city = ("aachen", "ulm")[number % 2]
        picture, truth = (cv2.imread(str(source / kind / f"{number:06d}.png")) for kind in ("images", "panoptic"))
        if number == 2:  # nothing that the segmenter knows
            picture[:] = 40
        for kind, tail, content in (
            ("leftImg8bit", "leftImg8bit", picture),
            ("gtFine", "gtFine_labelIds", table[truth[..., 2]]),
        ):
            path = tmp_path / "cities" / kind / "val" / city / f"{city}_00000{number}_000019_{tail}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), content)
    out, json_path = tmp_path / "out", tmp_path / "figures.json"
    arguments = ["cityscapes_semantic", "--root", str(tmp_path / "cities"), "--predictions", str(out)]
    assert main(["evaluate", *arguments, "--json", str(json_path)]) == 0
    maps = sorted((out / "semantic").rglob("*.png"))
    names = [
        f"{city}/{city}_00000{n}_000019_gtFine_labelIds.png" for city, n in (("aachen", 0), ("aachen", 2), ("ulm", 1))
    ]
    assert [path.relative_to(out / "semantic").as_posix() for path in maps] == names
    assert sorted(path.name for path in out.iterdir()) == ["plan.json", "semantic"]
    confusion = np.zeros((34, 34), np.int64)
    folders = tmp_path / "cities" / "gtFine" / "val", out / "semantic"
    for name in names:
        truth, labels = (cv2.imread(str(f / name), cv2.IMREAD_UNCHANGED) for f in folders)
        assert labels.dtype == np.uint8 and labels.shape == painted.size
        np.add.at(confusion, (truth, labels), 1)
    confusion[0] = 0  # ignored; a column of 0 is a miss
    iou = [confusion[k, k] / (confusion[k].sum() + confusion[:, k].sum() - confusion[k, k]) for k in ids]
    assert json.loads(json_path.read_text())["miou"] == pytest.approx(100 * sum(iou) / 6, rel=0, abs=1e-9)
    assert 0 < sum(iou) / 6 < 1


@pytest.mark.parametrize(
    ("ids", "no_category", "dtype", "nothing"),
    [
        ((1, 90, 200), None, np.uint8, 255),
        ((0, 254), 255, np.uint8, 255),
        ((1, 150), 0, np.uint8, 0),
        ((0, 255), None, np.uint16, 65535),
        ((0, 846), 65535, np.uint16, 65535),
        ((0, 70000), None, None, 0),
    ],
)
def test_label_maps_are_as_deep_as_need_be(ids, no_category, dtype, nothing):
    values = _label_values(ids, no_category)
    if dtype is None:
        assert values is None
    else:
        assert values.dtype == dtype and values[[0, 1, 65535]].tolist() == [*ids[:2], nothing]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["../../x.png"], "'../../x.png' leads out of --predictions, or is no name"),
        (["/etc/x.png"], "leads out of"),
        (["a/../../x.png"], "leads out of"),
        (["."], "is no name"),
        (["a\0.png"], "is no name"),
        (["\ud800.png"], "is no name"),
        (["a.png", "a.png"], "000000.png and 000001.png have the same annotation a.png"),
        (["a.png", "a.tif"], "have the same annotation a.png"),
    ],
)
def test_names_of_strangers_do_not_lead_out_of_the_folder(painted, tmp_path, names, reason):
    folder = painted.write_folder(tmp_path / "data", len(names))
    index = json.loads((folder / "panoptic.json").read_text())
    for annotation, name in zip(index["annotations"], names, strict=True):
        annotation["file_name"] = name
    (folder / "panoptic.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match=reason.replace(".", r"\.")):
        Predictions(tmp_path / "out", open_dataset("tabletop", folder), len(names))
    assert not (tmp_path / "out").exists()


def test_the_data_set_is_named_by_place_or_by_option(capsys):
    for arguments in (
        ["coco_panoptic", "--data", "tabletop"],
        ["coco_panoptic", "--dataset", "x"],
        ["x", "--merge", "y"],
    ):
        assert main(["evaluate", *arguments]) == 2
        assert "NAME would change nothing" in capsys.readouterr().err
