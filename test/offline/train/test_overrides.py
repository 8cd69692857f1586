"""Overrides of a recipe on the command line, and --print-config."""

from pathlib import Path

import pytest
import yaml
from tiny_training import EOMT_RECIPE

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.train.run import Recipe, load_recipe


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(EOMT_RECIPE)
    return str(path)


def test_values_go_into_the_stage_the_lists_and_the_sections_that_are_not_there(tiny: str) -> None:
    overrides = ["loop.learning_rate=3e-4", "mixed_precision=bf16", "stages.0.loop.steps=9", "eomt.loop.seed=7"]
    overrides += ["augmentation.size.1=128", "annealing_starts=[2]", "loop.multipliers=[{prefix: a, factor: 0.5}]"]
    overrides += ["augmentation.colors.hue=5", "augmentation.flip=0.25"]
    config = load_recipe(tiny, overrides)
    [stage] = config.stages
    assert config.mixed_precision == "bf16"
    assert (stage.loop.learning_rate, stage.loop.steps, stage.loop.seed) == (3e-4, 9, 7)
    assert stage.augmentation.size == (64, 128) and stage.annealing_starts == (2,)
    assert stage.loop.multipliers[0].factor == 0.5 and stage.augmentation.colors.hue == 5
    assert stage.loop.encoder.layer_decay == 0.8 and stage.loop.encoder.warmup_steps == 1
    [stage] = load_recipe(tiny, ["loop.encoder.layer_decay=0.7", "loop.encoder=null"]).stages  # in any order
    assert stage.loop.encoder.layer_decay == 0.7 and stage.loop.encoder.warmup_steps == 1000


def test_a_text_for_the_data_is_a_data_set(tiny: str) -> None:
    [stage] = load_recipe(tiny, ["data=coco_panoptic"]).stages
    assert (stage.data.dataset, stage.data.split, stage.data.workers) == ("coco_panoptic", "train", 2)
    views = "augmentation={kind: jitter, size: [64, 96]}"
    [stage] = load_recipe("tabletop_omtseg", ["data.split=val", "data=coco_panoptic", views]).stages
    assert (stage.data.dataset, stage.data.split, stage.data.workers) == ("coco_panoptic", "val", 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["foo"], "'foo' is no override; expected KEY=VALUE, such as loop.learning_rate=3e-4"),
        (["=3"], "'=3' is no override"),
        (["loop..steps=3"], "'loop..steps=3' is no override"),
        (["loop.steps="], "loop.steps= has no value; write loop.steps=null for none"),
        (["loop={a"], "loop={a: the value is not valid YAML: expected ',' or '}'"),
        (["loop.seed=010"], "loop.seed=010: the value is not valid YAML"),
        (["loop.step=3"], "loop.step=3: tiny.yaml.stages[0].loop: unknown key 'step'; did you mean 'steps'?"),
        (
            ["steps=3"],
            "steps=3: tiny.yaml.stages[0]: unknown key 'steps'; it belongs under stages.adaptation or stages.loop",
        ),
        (["augmentation.phases=[]"], "unknown key 'phases'; expected one of size, scale, flip"),
        (["loop.steps=many"], "loop.steps=many: tiny.yaml.stages[0].loop.steps: expected a whole number, got 'many'"),
        (["loop.steps=1e3"], "got '1e3'; write 1000"),
        (["loop.seed=1", "loss.points=-1"], "loss.points=-1: tiny.yaml.stages[0].loss.points: it should be greater"),
        (["loop.seed=x", "loss.points=x"], "loop.seed=x and loss.points=x: tiny.yaml"),
        (["loop.steps.x=1"], "loop.steps.x=1: there is no 'x' in 4, which is a value and no section"),
        (["augmentation.size.2=1"], "augmentation.size.2=1: '2' is no place in a list of 2; places count from 0"),
        (["stages.1.loop.steps=1"], "'1' is no place in a list of 1"),
        (["loop.steps=1", "eomt.loop.steps=2"], "loop.steps=1 and eomt.loop.steps=2 are about the same key; leave one"),
        (["data=nosuch"], "data=nosuch: "),
    ],
)
def test_an_override_at_fault_is_named_as_it_was_typed(tiny: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(tiny, overrides)
    assert message in str(error.value)


def test_several_stages_are_told_apart(tiny: str) -> None:
    config = load_recipe("tabletop", ["eomt.loop.steps=10", "clip.adaptation.steps=5"])
    assert config.stages[0].loop.steps == 10 and config.stages[1].adaptation.steps == 5
    with pytest.raises(ConfigError, match=r"say which is meant: eomt\.loop\.steps=3 or clip\.loop\.steps=3"):
        load_recipe("tabletop", ["loop.steps=3"])
    with pytest.raises(ConfigError, match=r"loop\.steps=3 and --steps are about the same key"):
        load_recipe(tiny, ["loop.steps=3"], steps=4)


def test_a_fault_of_the_file_is_not_an_override_s(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(EOMT_RECIPE.replace("points", "pionts"))
    with pytest.raises(ConfigError, match=r"^tiny\.yaml\.stages\[0\]\.loss: unknown key 'pionts'"):
        load_recipe(str(path), ["loop.steps=3"])
    path.write_text("stages: 3")
    with pytest.raises(ConfigError, match=r"^tiny\.yaml\.stages: expected a list, got 3"):
        load_recipe(str(path), ["loop.steps=3"])


def test_no_is_a_precision_though_yaml_reads_false(tiny: str) -> None:
    assert load_recipe(tiny, ["mixed_precision=no"]).mixed_precision == "no"


def test_print_config_prints_what_trains_the_same(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder, data or weights; by one process of many; overrides may stand behind options."""
    arguments = ["train", tiny, "data.split=val", "--print-config", "--accumulate", "2", "loop.learning_rate=3e-4"]
    assert main([*arguments, "--mixed-precision", "bf16"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    config = load_recipe(str(tmp_path / "printed.yaml"))
    expected = load_recipe(tiny, ["data.split=val", "loop.learning_rate=3e-4", "mixed_precision=bf16"], accumulate=2)
    assert isinstance(config, Recipe) and config == expected
    assert yaml.safe_load(printed)["stages"][0]["loop"]["betas"] == [0.9, 0.98] and "record" not in printed
    monkeypatch.setenv("RANK", "1")
    assert main(arguments) == 0 and capsys.readouterr().out == ""
    monkeypatch.delenv("RANK")
    for wrong, message in (
        ([*arguments, "loop.learning_rat=1"], "loop.learning_rat=1: tiny.yaml.stages[0].loop: unknown key"),
        (["train", tiny, "loop.steps=3"], "the following arguments are required: --out"),
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        main([*arguments, "--nosuch", "loop.steps=3"])
    assert "unrecognized arguments: " in capsys.readouterr().err
