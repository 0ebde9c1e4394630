"""The command ``nlseg``: its commands, the names of published configs, and the installed wheel."""

import sys
from pathlib import Path

import pytest

from nlseg.commands.main import COMMANDS, main, module_of
from nlseg.config.published import find_config, published_configs
from nlseg.errors import ConfigError

ROOT = Path(__file__).parents[2]
NAME = "nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"


def test_every_command_has_a_parser_with_help_and_without_abbreviations() -> None:
    for name in COMMANDS:
        parser = module_of(name).build_parser()
        assert parser.description, name
        assert not parser.allow_abbrev, name


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 0, "usage: nlseg COMMAND"),
        (["--version"], 0, "nlseg 0."),
        (["trian"], 2, "there is no command 'trian'; did you mean train?"),
        (["--print-completion", "cmd"], 2, "no completion for 'cmd'; choose from bash"),
        (["--print-completion", "zsh"], 0, "#compdef nlseg"),
        (["config", NAME, "--plain"], 0, "max_iters=40000"),
        (["config", NAME.replace("scapes", "scape")], 2, f"the nearest are {NAME}, "),
    ],
)  # fmt: skip
def test_what_it_answers(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nlseg", *words])
    try:
        ended = main(words)
    except SystemExit as end:
        ended = int(end.code or 0)
    captured = capsys.readouterr()
    assert ended == code, captured.err
    assert said in captured.out + captured.err


def test_abbreviated_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["test", NAME, "weights.pth", "--work", "there"])
    assert "unrecognized arguments: --work" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [NAME, f"{NAME}.py", f"nonlocal_net/{NAME}.py", f"configs/nonlocal_net/{NAME}.py"]
)
def test_published_config_by_name_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == ROOT / f"configs/nonlocal_net/{NAME}.py"


def test_a_file_of_the_users_comes_before_a_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{NAME}.py").touch()
    assert find_config(f"{NAME}.py") == Path(f"{NAME}.py")
    Path("notes.txt").touch()
    with pytest.raises(ConfigError, match=r"notes\.txt: a config file ends in one of \.py"):
        find_config("notes.txt")
    with pytest.raises(ConfigError, match="there is no folder absent"):
        find_config(f"absent/{NAME}.py")


def test_published_names_are_unique_and_hold_no_bases() -> None:
    names = published_configs()
    assert len(names) > 44
    assert len(names) == len(
        [path for path in (ROOT / "configs").glob("*/*.py") if path.parent.name != "_base_"]
    )


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--no-training"])
    said = capsys.readouterr().out
    assert "torch" in said
    assert code == ("problem:" in said)
