from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner.amp import autocast

from nlseg.config.check import check_config
from nlseg.config.load import load_config, trace_of
from nlseg.errors import ConfigError
from nlseg.run.fast import (
    Hardware,
    apply,
    check_bfloat16,
    describe,
    find_hardware,
    training_choices,
    use_fast_training,
)
from nlseg.run.fast import testing_choices as choices_for_testing
from nlseg.run.half import check_half, half_precision
from tests.cases import each_case

ROOT = Path(__file__).parents[3]
CITYSCAPES = ROOT / "configs/nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py"
V100 = Hardware("cuda", "V100", (7, 0))
A100 = Hardware("cuda", "A100", (8, 0))
H200 = Hardware("cuda", "H200", (9, 0))
PASCAL = Hardware("cuda", "1080 Ti", (6, 1))
EPYC = Hardware("cpu", "CPU", half_flags=("avx512_bf16",))
OLD_CPU = Hardware("cpu", "CPU")


def chosen(choices: list) -> dict:
    return {choice.key: choice.value for choice in choices}


@each_case(
    "hardware, dtype",
    [
        (V100, "float16"), (A100, "bfloat16"), (H200, "bfloat16"), (EPYC, "bfloat16"),
        (PASCAL, None), (OLD_CPU, None),
    ],
)  # fmt: skip
def test_the_half_precision_that_the_hardware_has(hardware: Hardware, dtype: str | None) -> None:
    training = chosen(training_choices(hardware))
    assert training.get("optim_wrapper.dtype") == dtype
    assert ("optim_wrapper.type" in training) == (dtype is not None)
    assert chosen(choices_for_testing(hardware)).get("test_cfg.dtype") == dtype


def test_tf32_from_ampere_on_and_channels_last_where_it_pays() -> None:
    assert "tf32" not in chosen(training_choices(V100))
    assert chosen(training_choices(A100))["tf32"] is True
    assert chosen(training_choices(V100))["channels_last"] is True
    assert "channels_last" not in chosen(training_choices(PASCAL))
    assert chosen(training_choices(OLD_CPU)) == {
        "channels_last": True, "model.data_preprocessor.channels_last": True,
    }  # fmt: skip


def test_bfloat16_before_ampere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nlseg.run.fast.find_hardware", lambda: V100)
    wrapper = {"type": "AmpOptimWrapper", "dtype": "bfloat16"}
    with pytest.raises(ConfigError, match=r"optim_wrapper.dtype: 'bfloat16', but V100 \(sm_70\)"):
        use_fast_training(Config({"optim_wrapper": wrapper}))
    check_bfloat16(A100, "optim_wrapper", wrapper)
    check_bfloat16(V100, "optim_wrapper", {"dtype": "float16"})


def test_cuda_graphs_are_for_crops_of_one_size_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = load_config(str(CITYSCAPES))
    with pytest.raises(ConfigError, match="--graphs: CUDA graphs need a GPU"):
        use_fast_training(config, graphs=True)
    monkeypatch.setattr("nlseg.run.fast.find_hardware", lambda: H200)
    with pytest.raises(ConfigError, match="--graphs: crops need one size"):
        use_fast_training(Config({"model": {"data_preprocessor": {}}}), graphs=True)
    config.compile = True  # says nothing about a mode
    use_fast_training(config, graphs=True)
    assert config.compile == {"mode": "reduce-overhead"}
    assert "compile={'mode': 'reduce-overhead'}" in capsys.readouterr().out
    assert check_config(config, trace_of(config)) == []


def test_cudnn_searches_only_where_crops_have_one_size() -> None:
    assert "env_cfg.cudnn_benchmark" in chosen(training_choices(A100))
    assert "env_cfg.cudnn_benchmark" not in chosen(training_choices(A100, fixed_crops=False))


def test_a_real_config_gets_the_keys_and_is_still_valid() -> None:
    config = load_config(str(CITYSCAPES))
    lines = apply(config, training_choices(V100)) + apply(config, choices_for_testing(V100))
    assert config.optim_wrapper.type == "AmpOptimWrapper"
    assert config.optim_wrapper.dtype == config.test_cfg.dtype == "float16"
    assert config.optim_wrapper.optimizer.fused is True
    assert config.model.data_preprocessor.channels_last is True
    assert check_config(config, trace_of(config)) == []
    assert any("sm_70" in line for line in lines)


def test_what_the_config_decides_stays() -> None:
    config = Config(
        {
            "optim_wrapper": {"type": "AmpOptimWrapper", "dtype": "float16",
                              "optimizer": {"type": "SGD", "fused": False}},
            "channels_last": False,
            "model": {"data_preprocessor": {}},
            "train_dataloader": {},
        }
    )  # fmt: skip
    lines = apply(config, training_choices(A100))
    assert config.optim_wrapper.dtype == "float16"
    assert config.optim_wrapper.optimizer.fused is False
    assert config.channels_last is False
    assert config.env_cfg.cudnn_benchmark is True
    assert "optim_wrapper.dtype='float16' stays: the config says so" in lines
    assert "channels_last=False stays: the config says so" in lines


def test_another_optimizer_wrapper_stays() -> None:
    config = Config({"optim_wrapper": {"type": "MyWrapper"}})
    apply(config, training_choices(EPYC))
    assert config.optim_wrapper.type == "MyWrapper"


def test_under_test_time_augmentation_the_inner_model_is_meant() -> None:
    config = Config({"model": {"type": "SegTTAModel", "module": {"data_preprocessor": {}}}})
    apply(config, choices_for_testing(A100))
    assert config.model.module.data_preprocessor.channels_last is True
    assert "data_preprocessor" not in config.model


def test_a_cpu_is_known_by_its_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor : 0\nflags : fpu avx512f avx512_bf16 amx_bf16 amx_tile\n")
    assert find_hardware(listed).half_flags == ("avx512_bf16", "amx_bf16")
    listed.write_text("processor : 0\nflags : fpu avx512f\n")
    assert find_hardware(listed).half is None
    assert find_hardware(tmp_path / "missing").half is None


def test_it_says_what_it_chose_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nlseg.run.fast.find_hardware", lambda: EPYC)
    use_fast_training(Config({"optim_wrapper": {"type": "OptimWrapper"}}))
    assert "optim_wrapper.dtype='bfloat16': the CPU has avx512_bf16" in capsys.readouterr().out
    assert describe(OLD_CPU, []).endswith("nothing to change")


def test_evaluation_computes_in_the_type_of_its_config() -> None:
    product = torch.nn.Linear(2, 2)
    with half_precision(True, "bfloat16"), autocast(enabled=True):  # as mmengine's loops do
        assert product(torch.ones(1, 2)).dtype == torch.bfloat16
    with half_precision(False, None), autocast(enabled=False):
        assert product(torch.ones(1, 2)).dtype == torch.float32
    with pytest.raises(ConfigError, match="'half' is not one of float16, bfloat16"):
        check_half("half")  # type: ignore[arg-type]
