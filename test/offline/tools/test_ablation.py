"""The ablation: its variants, its table, and that a stopped one goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fisa_scenes import Proposer, coloured_views

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.evaluate.fisa import EvaluationImages, fisa_quality, module_quality, oracle_quality
from ovseg_ros.offline.tools import ablate as ablation
from ovseg_ros.offline.tools.ablate import AblationConfig, Variant, ablate_tabletop, result_path, variants
from ovseg_ros.offline.train.fisa_parts import FisaParts, load_parts
from ovseg_ros.sim.categories import TABLETOP_SPECS

SMALL = AblationConfig(
    seeds=1, systems=("baseline", "seve_simo", "seve_lora"), convolutions=(0,), ranks=(2,), images=2, steps=2
)


@pytest.fixture(scope="module")
def parts() -> FisaParts:
    return replace(load_parts("tabletop_fisa"), generator=Proposer())


@pytest.fixture
def scenes(parts: FisaParts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two-object scenes in place of the rendered ones, and a generator that finds them."""
    monkeypatch.setattr(ablation, "load_or_render", lambda *_, **__: coloured_views(3, "blue star"))
    monkeypatch.setattr("ovseg_ros.offline.train.fisa_tabletop.load_or_render", lambda *_, **__: coloured_views(3))
    monkeypatch.setattr(ablation, "load_parts", lambda preset: parts)


def test_variants_are_the_papers_and_the_question_comes_first() -> None:
    all_of_them = [variant for group in variants(AblationConfig(), 2) for variant in group]
    assert [variant.name for variant in all_of_them[:4]] == ["baseline-c2", "seve-c2", "seve_full-c2", "seve_simo-c2"]
    assert len(all_of_them) == len({variant.name for variant in all_of_them}) == 4 * 4 + 3
    assert [variant.name for variant in all_of_them[-3:]] == ["seve_lora-r4", "seve_lora-r16", "seve_lora-r64"]


def test_each_system_trains_its_own_part(parts: FisaParts) -> None:
    def trained(variant: Variant) -> set[str]:
        names = parts.classifier(**variant.changes()).trained_state_dict()
        return {".".join(name.split(".")[:2]) for name in names if not name.startswith("visual")} | {
            "lora" if "parametrizations" in name else "visual" for name in names if name.startswith("visual")
        }

    assert trained(Variant("baseline", 0)) == set()
    assert trained(Variant("seve", 0)) == {"stream.seve"}
    assert trained(Variant("seve_full", 0)) == {"stream.seve", "visual"}
    assert trained(Variant("seve_simo", 2)) == {"stream.seve", "stream.queries", "adapter.layers"}
    assert trained(Variant("seve_lora", 0, 4)) == {"stream.seve", "lora"}


def test_quality_agrees_with_the_classifier_itself(parts: FisaParts) -> None:
    """From remembered crops and through the module's own forward: the same words, so the same PQ."""
    classifier = parts.classifier(mirrored=False).eval()
    images = EvaluationImages.collect(classifier, parts.generator, coloured_views(2, "blue star"))
    text = parts.text_encoder.encode(Vocabulary.build(list(TABLETOP_SPECS)))
    remembered = fisa_quality(classifier, images, text, parts.preset.merge)
    assert remembered == module_quality(classifier, images, text, parts.preset.merge)

    perfect = oracle_quality(images, text, parts.preset.merge)
    assert perfect.unseen == pytest.approx(100, abs=1) and perfect.seen == pytest.approx(
        50, abs=1
    )  # nobody proposed the table


@pytest.mark.usefixtures("scenes")
def test_an_ablation_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ablate_tabletop(SMALL, data=tmp_path, out=tmp_path / "out") == 0
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "baseline: frozen CLIP" in table and "rank 2" in table and "first classifier" in table
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    assert [(row["system"], row["convolutions"], row["rank"]) for row in rows] == [
        ("first", 0, 0), ("first", 1, 0), ("baseline", 0, 0), ("seve_simo", 0, 0),
        ("seve_lora", 2, 2), ("oracle", 0, 0),
    ]  # fmt: skip
    trained: list[str] = []
    original = ablation.train_fisa
    monkeypatch.setattr(ablation, "train_fisa", lambda *a, **k: (trained.append(a[4].name), original(*a, **k)))
    result_path(tmp_path / "out", "seve_simo-c0", 0).unlink()
    ablate_tabletop(SMALL, data=tmp_path, out=tmp_path / "out")
    assert len(trained) == 1 and trained[0].startswith("seve_simo-c0-0-")
    ablate_tabletop(replace(SMALL, steps=1), data=tmp_path, out=tmp_path / "out")  # other settings: all anew
    assert len(trained) == 1 + 3


@pytest.mark.usefixtures("scenes")
def test_a_torn_result_is_named(tmp_path: Path) -> None:
    path = result_path(tmp_path, "baseline-c0", 0)
    path.parent.mkdir()
    path.write_text('{"seen": 1')
    with pytest.raises(DatasetError, match="baseline-c0-0.json .* delete it"):
        ablate_tabletop(SMALL, data=tmp_path, out=tmp_path)


@pytest.mark.usefixtures("scenes")
def test_images_that_show_nothing_unseen_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "load_or_render", lambda *_, **__: coloured_views(3))
    with pytest.raises(ConfigError, match="the first 2 images of split test show no unseen category"):
        ablate_tabletop(SMALL, data=tmp_path, out=tmp_path)


def test_wrong_choices_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="unknown systems fisa; choose of baseline, seve"):
        AblationConfig(systems=("fisa",))
    with pytest.raises(ConfigError, match="unknown split 'tset'; expected one of train, val"):
        AblationConfig(split="tset")
    assert main(["ablate", "tabletop", "--out", str(tmp_path), "--recipe", "tabletop"]) == 2
    assert "no fisa section to ablate" in capsys.readouterr().err
