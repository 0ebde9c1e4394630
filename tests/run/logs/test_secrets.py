from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.config import load_config, python_file
from nlseg.config.text import hide_secrets
from tests.run.runs import train
from tests.run.toy import toy_config

SECRET = "s3cr3t-0815-4711"


def test_only_what_is_named_like_a_secret_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    monkeypatch.setenv("MY_TOKEN", "12")  # too short to be told from other text
    monkeypatch.setenv("PLAIN_NAME", "resnet50")
    hidden = hide_secrets(f"key='{SECRET}', depth=12, name='resnet50'")
    assert hidden == "key='<SOME_API_KEY of the environment>', depth=12, name='resnet50'"


def test_value_of_a_variable_that_a_config_uses_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(python_file, "print_log", lambda text, *_, **__: said.append(text))
    monkeypatch.setenv("WHATEVER", SECRET)
    (tmp_path / "a.py").write_text("work_dir = '{{$WHATEVER:none}}'\n")
    assert load_config(str(tmp_path / "a.py"), allow_unknown=True).work_dir == SECRET
    assert said == ["Using env variable `WHATEVER` in the config"]


def test_no_log_or_checkpoint_of_a_run_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    train(toy_config(tmp_path, iters=4, some_settings={"password": SECRET}))
    assert SECRET not in "".join(capfd.readouterr())
    for path in tmp_path.glob("**/*.log"):
        assert SECRET not in path.read_text()
    meta = torch.load(tmp_path / "iter_4.pth", weights_only=True)["meta"]
    assert SECRET not in meta["cfg"]
    assert "<WANDB_API_KEY of the environment>" in meta["cfg"]
