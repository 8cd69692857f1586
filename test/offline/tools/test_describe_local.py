"""`ovseg describe` with a language model on this machine."""

from pathlib import Path

import pytest

from ovseg_ros.core.descriptions import parse_descriptions
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import describe_models
from ovseg_ros.offline.tools.describe_models import LocalModel, ModelError
from ovseg_ros.offline.tools.describe_prompt import PROMPT_HASH

GOOD = '{"color": ["white or glazed"], "shape": ["short cylinder"], "texture": ["smooth ceramic"]}'


def tiny_llama(folder: Path) -> Path:
    """A language model with random weights and a tokenizer of letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(["</s>", *letters])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=2048, **sizes)).save_pretrained(folder)
    return folder


def test_a_local_model_is_asked_and_its_nonsense_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tiny_llama(tmp_path / "tiny"), tmp_path / "out.yaml"
    monkeypatch.setattr(describe_models, "_LOCAL_TOKENS", 8)
    options = ["--backend", "transformers", "--model", str(folder), "--device", "cpu", "--out", str(out)]
    assert main(["describe", "cup", *options]) == 1
    assert "left: 'cup': " in capsys.readouterr().err and not out.exists()
    monkeypatch.setattr(LocalModel, "__call__", lambda self, messages: GOOD)
    assert main(["describe", "cup", *options]) == 0
    cup = parse_descriptions(out.read_bytes(), str(out))["cup"]
    assert cup.color == ("white or glazed",) and cup.by == f"tiny@{PROMPT_HASH}"
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert main(["describe", "cup", *options]) == 2
    assert f"--model {folder} cannot be loaded: " in capsys.readouterr().err
    gguf = tmp_path / "x.gguf"
    gguf.write_bytes(b"GGUF")
    monkeypatch.setattr(describe_models, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"x\.gguf needs the Python package gguf; install it, or give a model's folder"
    ):
        LocalModel(gguf, "cpu")


def test_a_question_longer_than_the_model_reads_is_said(tmp_path: Path) -> None:
    model = LocalModel(tiny_llama(tmp_path / "tiny"), "cpu")
    with pytest.raises(ModelError, match="the question has 3000 tokens, the model reads 2048; give another --model"):
        model([{"role": "user", "content": "a" * 2998}])
