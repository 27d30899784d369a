import pytest
import torch

from train.errors import RunError
from train.hardware import choose_device, choose_precision


@pytest.fixture
def cuda(monkeypatch):
    """Pretends that there is a CUDA device, or none."""
    return lambda there: monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


@pytest.fixture
def instructions(monkeypatch):
    """Pretends that the processor has exactly these instructions."""
    return lambda **there: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class TestDevice:
    @pytest.mark.parametrize(("there", "device"), [(False, CPU), (True, CUDA)])
    def test_auto_takes_cuda_where_there_is_any(self, cuda, there, device):
        cuda(there)
        assert choose_device("auto") == device

    def test_cpu_is_cpu_even_where_there_is_cuda(self, cuda):
        cuda(True)
        assert choose_device("cpu") == CPU

    def test_cuda_that_is_asked_for_and_absent_is_an_error_that_says_what_to_do(self, cuda):
        cuda(False)
        with pytest.raises(RunError, match=r"^--device is cuda, but PyTorch \S+ finds no CUDA .*; use --device cpu$"):
            choose_device("cuda")


class TestPrecision:
    @pytest.mark.parametrize("name", ["float32", "bfloat16"])
    def test_is_what_was_asked_for(self, name, instructions):
        for there in (True, False):
            instructions(avx512_bf16=there)
            assert choose_precision(name, CPU) == getattr(torch, name)

    @pytest.mark.parametrize(
        ("there", "dtype"),
        [
            ({"avx512_bf16": True}, torch.bfloat16),
            ({"avx512_bf16": False}, torch.float32),
            ({"neon": True}, torch.float32),
        ],
    )
    def test_auto_follows_the_instructions_of_the_processor(self, instructions, there, dtype):
        instructions(**there)
        assert choose_precision("auto", CPU) == dtype

    @pytest.mark.parametrize(("there", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_auto_on_a_gpu_follows_its_hardware_not_an_emulation(self, monkeypatch, there, dtype):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: there or including_emulation
        )
        assert choose_precision("auto", CUDA) == dtype

    def test_auto_knows_this_machine(self):
        assert choose_precision("auto", CPU) in (torch.float32, torch.bfloat16)
