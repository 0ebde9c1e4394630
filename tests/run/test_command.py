import sys
from pathlib import Path

import pytest

from nlseg.errors import ConfigError
from nlseg.files import write_file
from nlseg.run import command

CONFIGS = Path(__file__).parents[2] / "configs"
CITYSCAPES = str(CONFIGS / "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py")
VOC_AUG = str(CONFIGS / "nonlocal_net/nonlocal_r50-d8_4xb4-20k_voc12aug-512x512.py")


def test_work_dir_is_named_after_the_config() -> None:
    cfg = command.training_config(CITYSCAPES)
    assert cfg.work_dir == "work_dirs/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"
    assert command.training_config(CITYSCAPES, work_dir="x").work_dir == "x"


def test_resume_flag_path_and_config_mean_what_they_say() -> None:
    cfg = command.training_config(CITYSCAPES, resume=True, overrides=["load_from=w.pth"])
    assert (cfg.resume, cfg.load_from) == (True, None)
    cfg = command.training_config(CITYSCAPES, resume="a/iter_5.pth")
    assert (cfg.resume, cfg.load_from) == (True, "a/iter_5.pth")
    assert command.training_config(CITYSCAPES, overrides=["resume=True"]).resume is True
    assert command.training_config(CITYSCAPES).resume is False


def test_amp_turns_the_ordinary_wrapper_only() -> None:
    assert command.training_config(CITYSCAPES, amp=True).optim_wrapper.type == "AmpOptimWrapper"
    cfg = command.training_config(CITYSCAPES)
    cfg.optim_wrapper.type = "MyWrapper"
    with pytest.raises(ConfigError, match="not MyWrapper"):
        command.use_half_precision(cfg)


def test_test_config_needs_no_training_data() -> None:
    cfg = command.evaluation_config(CITYSCAPES, "w.pth")
    assert cfg.train_dataloader is None
    assert cfg.val_dataloader is None
    assert cfg.load_from == "w.pth"


def test_tta_wraps_the_model_and_swaps_the_pipeline() -> None:
    cfg = command.evaluation_config(CITYSCAPES, "w.pth", tta=True)
    assert cfg.model.type == "SegTTAModel"
    assert cfg.model.module.type == "EncoderDecoder"
    assert cfg.test_dataloader.dataset.pipeline[1].type == "TestTimeAug"


def test_tta_without_a_pipeline_is_refused() -> None:
    cfg = command.training_config(CITYSCAPES)
    cfg.pop("tta_pipeline")
    with pytest.raises(ConfigError, match="tta_pipeline: not in the config"):
        command.use_test_time_augmentation(cfg)


def test_out_and_show_dir_reach_evaluator_and_hook() -> None:
    cfg = command.evaluation_config(CITYSCAPES, "w.pth", out="o", show_dir="s")
    assert cfg.test_evaluator.output_dir == "o"
    hook = cfg.default_hooks.visualization
    assert (hook.draw, hook.interval, hook.show_dir) == (True, 1, "s")
    lists = command.evaluation_config(
        CITYSCAPES, "w.pth", out="o",
        overrides=["test_evaluator=[{'type': 'IoUMetric'}, {'type': 'CityscapesMetric', "
                   "'output_dir': 'x'}]"],
    )  # fmt: skip
    assert [evaluator.output_dir for evaluator in lists.test_evaluator] == ["o", "o"]
    assert lists.test_evaluator[1].keep_results


def test_users_error_is_told_once_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConfigError("model.num_clases: no such key")

    with pytest.raises(SystemExit) as left:
        command.run(fail)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: model.num_clases: no such key\n"


def test_places_that_cannot_be_written_to_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        Path("/dev/full").write_bytes(b"0")

    for attempt, said in (
        (lambda: Path("/sys/mine").mkdir(), "error: /sys/mine: "),
        (lambda: write_file(Path("/sys/mine"), "1"), "error: /sys/mine: "),
        (fill, "error: No space left on device; make room"),
    ):
        with pytest.raises(SystemExit) as left:
            command.run(attempt)
        assert left.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith(said)
        assert told.endswith("; make room, change permissions, or name another place\n")


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: print(1 // 0))
    with pytest.raises(FileNotFoundError):
        command.run(lambda: print((tmp_path / "none").read_text()))
    assert sys.exc_info() == (None, None, None)


def test_keys_that_nothing_reads_are_allowed_for_a_test_as_for_a_training(tmp_path: Path) -> None:
    config = tmp_path / "mine.py"
    config.write_text(f"_base_ = {CITYSCAPES!r}\nmy_note = 3\n")
    with pytest.raises(ConfigError, match="my_note"):
        command.evaluation_config(str(config), "w.pth")
    assert command.evaluation_config(str(config), "w.pth", allow_unknown=True).my_note == 3
