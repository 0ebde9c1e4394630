import re
from collections import Counter
from pathlib import Path

import pytest

from tests import tiny_data
from tests.faults.forked import resumed
from tests.nodes import cluster, jobs, runs
from tests.nodes.cluster import Cluster
from tests.run import prepared
from tests.run.real_processes import ROOT
from tests.tools.test_train_and_test import CONFIG, options

MISSING = cluster.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MISSING is not None, reason=f"several nodes: {MISSING}"),
]


@pytest.mark.parametrize("launcher", ["pytorch", "slurm"])
def test_two_nodes_end_with_the_bits_of_one(tmp_path: Path, launcher: str) -> None:
    reference = runs.undisturbed(tmp_path / "one")
    config = runs.config_of(tmp_path / "two", launcher=launcher)
    with Cluster(2, tmp_path) as nodes:
        assert runs.end(runs.start(config, nodes.nodes)) == [0, 0], runs.log(tmp_path / "two")
    runs.assert_ended_alike(reference, tmp_path / "two")  # 13 images on two nodes: 7 and 6


def test_run_goes_on_with_other_numbers_of_nodes(tmp_path: Path) -> None:
    work, log = tmp_path / "work", str(tmp_path / "samples")
    for count, until in ((2, 4), (3, 8), (1, 12)):
        config = runs.config_of(
            work, processes=2,
            **{"train_dataloader.dataset.log": log, "train_cfg.max_iters": until,
               "default_hooks.checkpoint.save_last": True},
        )  # fmt: skip
        with Cluster(count, tmp_path) as nodes:
            codes = runs.end(runs.start(resumed(config), nodes.nodes))
        assert codes == [0] * count, runs.log(work)
    # 4 iterations each, of 2 samples on each of 2, then 3, then 1 nodes
    seen = Counter(int(line.split()[0]) for line in Path(log).read_text().splitlines())
    assert seen == Counter(range(4 * 2 * (2 + 3 + 1)))


def test_scripts_train_and_test_on_two_nodes(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    tiny_data.write_street_scenes(data, num_train=4, num_val=3, size=(64, 128))
    changes = ["--cfg-options", *options(tmp_path), "env_cfg.dist_cfg.timeout=60"]
    # a name that no node has for itself: only NODE_RANK says who keeps the meeting point
    told = {"NNODES": "2", "MASTER_ADDR": "fast1", "PORT": "29400", "MAX_RESTARTS": "0"}
    scores = {}
    with Cluster(2, tmp_path) as nodes:
        scripts: dict[str, list[str]] = {
            "train": ["dist_train.sh", CONFIG, "1", "--work-dir", str(work), *changes],
            "tta": ["dist_test.sh", CONFIG, str(work / "iter_2.pth"), "1", "--tta",
                    "--work-dir", str(tmp_path / "tta"), *changes],
        }  # fmt: skip
        for name, script in scripts.items():
            (tmp_path / f"out_{name}").mkdir()
            job = jobs.Job(tmp_path / f"out_{name}", script, told)
            job.start(nodes.nodes[0], NODE_RANK="1")
            job.start(nodes.nodes[1], NODE_RANK="0")
            assert job.end(200) == [0, 0], job.output()[-4000:]
            assert "Iter(" in job.output(nodes.nodes[1])  # rank 0 is where NODE_RANK=0 is
            assert "Iter(" not in job.output(nodes.nodes[0])
            scores[name] = _scores(job.output(nodes.nodes[1]))
    alone = prepared.run(
        str(ROOT / "tools/test.py"), CONFIG, str(work / "iter_2.pth"), "--tta", *changes,
        "--work-dir", str(tmp_path / "alone"),
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    # three images on two nodes count as they do on one
    assert scores["tta"] == _scores(alone.stdout + alone.stderr)


def _scores(output: str) -> list[str]:
    """Return the scores of all classes, as printed."""
    scores = re.findall(r"(?:aAcc|mIoU|mAcc): +[0-9.]+", output)
    assert scores, output[-2000:]
    return scores
