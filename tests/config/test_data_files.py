"""YAML and JSON configs are data, within bounds, with lines."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from nlseg.config.data_file import MAX_DEPTH, MAX_VALUES
from nlseg.config.load import load_config, trace_of
from nlseg.errors import ConfigError
from tests.cases import each_case

CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED = CONFIGS / "gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py"


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, check=False)
    return str(caught.value)


def test_yaml_and_json_that_mmengine_dumped_load(tmp_path: Path) -> None:
    config = load_config(PUBLISHED, check=False)
    config._cfg_dict.merge({"custom": {"pairs": [(1, 2), ((3,), [4])], "none": None}})
    plain = Config(config.to_dict())
    plain.dump(tmp_path / "dumped.yaml")
    assert "!!python/tuple" in (tmp_path / "dumped.yaml").read_text()
    assert load_config(tmp_path / "dumped.yaml").to_dict() == config.to_dict()
    plain.dump(tmp_path / "dumped.json")
    read = load_config(tmp_path / "dumped.json", check=False).to_dict()
    assert read == json.loads(json.dumps(config.to_dict()))


def test_yaml_aliases_and_merge_keys_have_the_lines_of_what_they_name(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a\n  b: 1\n  c: [x, {y: 2}]\nd: *a\ne:\n  <<: *a\n  b: 3\n")
    config = load_config(path, ["custom.z=1"], check=False)
    assert config.e == {"b": 3, "c": ["x", {"y": 2}]}
    trace = trace_of(config)
    lines = [
        trace.where(key).rpartition(":")[2]
        for key in (("d", "b"), ("d", "c", 1, "y"), ("e", "b"), ("e", "c"), ("e",))
    ]
    assert lines == ["2", "3", "7", "3", "6"]


def test_values_of_bases_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("size = (1, 2)\nmodel = dict(\n    head=dict(x=size))\n")
    path = tmp_path / "x.json"
    path.write_text(
        '{"_base_": ["base.py"],\n "a": {{_base_.model.head}},\n "b": [{{ _base_.size }}, 1],\n'
        ' "name": "{{ fileBasename }}",\n "n": {{$NOT_SET_HERE:7}}}'
    )
    config = load_config(path, check=False)
    assert config.a == {"x": (1, 2)}
    assert config.b == [(1, 2), 1]
    assert (config.name, config.n) == ("x.json", 7)
    assert trace_of(config).where(("a", "x")) == f"{tmp_path}/base.py:1"
    assert trace_of(config).named_at(("a",)) == f"{path}:2"
    assert trace_of(config).named_at(("b",)) == f"{path}:3"
    assert "x.json:2: the base has no 'model.haed'" in refused(
        path, path.read_text().replace("model.head", "model.haed")
    )


ALIASES = "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60))
MAPS = "a: &a0 {x: 1}\n" + "".join(f"b{i}: &a{i + 1} {{l: *a{i}, r: *a{i}}}\n" for i in range(40))
MERGES = "a: &a0 {x: 1}\n" + "".join(
    f"b{i}: &a{i + 1} {{<<: [*a{i}, *a{i}, *a{i}]}}\n" for i in range(40)
)

CHAIN = "a: &a0 [x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}]\n" for i in range(60))


HOSTILE_TEXTS = [
    (".yaml", CHAIN, f"nested more than {MAX_DEPTH} deep"),
    (".yaml", ALIASES, f"aliases stand for more than {MAX_VALUES} values"),
    (".yaml", MAPS, f"aliases stand for more than {MAX_VALUES} values"),
    (".yaml", MERGES, f"aliases stand for more than {MAX_VALUES} values"),
    (".yaml", "a: &a\n  b: *a\n", "x.yaml:1: this value refers to itself"),
    (".yaml", "a: " + "[" * 100_000, f"x.yaml:1: nested more than {MAX_DEPTH} deep"),
    (".yaml", "a: " + "{b: " * 100_000, f"x.yaml:1: nested more than {MAX_DEPTH} deep"),
    (".yaml", "- " * 100_000 + "a", f"x.yaml:1: nested more than {MAX_DEPTH} deep"),
    (".json", '{"a": ' + "[" * 100_000, f"x.json: nested more than {MAX_DEPTH} deep"),
    (".json", '{\t"a":' + "[" * 200 + "]" * 200 + "}", f"nested more than {MAX_DEPTH} deep"),
    (".json", '{"a": [' + "1," * 60_000 + "1]}", f"more than {MAX_VALUES} values"),
    (".json", '{"a": 1,\n "b": }', "x.json:2: Expecting value"),
    (".yaml", "a: 1\nb: [\n", "x.yaml:3: "),
    (".yaml", "- a\n- b\n", "expected keys with values, given list"),
    (".yaml", "", "expected keys with values, given NoneType"),
    (".yaml", "a: !!python/name:os.system\n", "could not determine a constructor"),
    (".yaml", "? [a, b]\n: 1\n", "is no key"),
    (".yaml", "a: 1\x00", "x.yaml: "),
]  # fmt: skip


@each_case("suffix, text, told", HOSTILE_TEXTS)
def test_hostile_text_ends_in_a_sentence(tmp_path: Path, suffix: str, text: str, told: str) -> None:
    message = refused(tmp_path / f"x{suffix}", text)
    assert told in message
    assert len(message) < 500
    assert "\n" not in message
