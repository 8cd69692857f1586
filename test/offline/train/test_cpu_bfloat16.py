"""What is slow in bfloat16 on a CPU computes in single precision, and the rest as it did."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ovseg_ros.offline.train.cpu_bfloat16 import SingleWhereSlow
from ovseg_ros.offline.train.engine import Engine


def rounded(value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.bfloat16)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2)])
def test_depthwise_convolutions_round_their_result_alone(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 6, 9, 9)
    convolution = nn.Conv2d(6, 6, kernel, stride, padding=kernel // 2, groups=6)
    with torch.autocast("cpu", torch.bfloat16):
        usual = convolution(images)
        with SingleWhereSlow():
            found = convolution(images)
    assert torch.equal(found, rounded(convolution(images))) and not torch.equal(found, usual)


def test_gradients_are_those_of_single_precision() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 6, 3, 2, padding=1, groups=6)
    images, seen = torch.rand(2, 6, 8, 8), torch.rand(2, 6, 4, 4)

    def gradient(single: bool) -> torch.Tensor:
        given = images.clone().requires_grad_()
        if single:
            with torch.autocast("cpu", torch.bfloat16), SingleWhereSlow():
                (convolution(given).float() * rounded(seen).float()).sum().backward()
        else:
            (convolution(given) * rounded(seen).float()).sum().backward()
        return given.grad

    torch.testing.assert_close(gradient(True), gradient(False))


def test_attention_rounds_its_result_alone_by_module_too() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.rand(3, 1, 2, 5, 8).unbind()
    mask = torch.rand(1, 1, 5, 5) > 0.3
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    tokens = torch.rand(1, 5, 16)
    with torch.autocast("cpu", torch.bfloat16), SingleWhereSlow():
        found = F.scaled_dot_product_attention(rounded(queries), keys, values, attn_mask=mask)
        assert attention(tokens, tokens, tokens, need_weights=False)[0].dtype == torch.bfloat16
    wanted = F.scaled_dot_product_attention(rounded(queries).float(), keys, values, attn_mask=mask)
    assert torch.equal(found, rounded(wanted))


def test_the_rest_is_left_alone() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 6, 9, 9)
    plain, depthwise = nn.Conv2d(6, 4, 5, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
    for convolution in (plain, depthwise):
        with torch.autocast("cpu", torch.bfloat16):
            usual = convolution(images)
            with SingleWhereSlow():
                assert torch.equal(convolution(images), usual)
    strided = nn.Conv2d(6, 6, 3, 2, groups=6)
    with SingleWhereSlow():  # without autocast
        assert torch.equal(strided(images), strided(images)) and strided(images).dtype == torch.float32


def test_a_training_in_bfloat16_on_a_cpu_runs_in_it() -> None:
    code = "from ovseg_ros.offline.train.engine import Engine; print(type(Engine('cpu', 'bf16').computing()).__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "SingleWhereSlow"  # in a process of its own, for the precision is the process's
    assert not isinstance(Engine("cpu").computing(), SingleWhereSlow)
