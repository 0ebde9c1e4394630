"""What a process from the prepared interpreter shares with one that ``python`` starts."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import each_case
from tests.run import prepared
from tests.run.real_processes import environment

BEGIN = "import atexit, os, sys; atexit.register(print, 'left'); print(sys.argv, __name__); "
ENDS = {
    "end": "pass",
    "exit code": "sys.exit(3)",
    "mistake": "print('error', file=sys.stderr); {}['a']",
    "signal": f"sys.stdout.flush(); os.kill(os.getpid(), {signal.SIGTERM:d})",
    "thread": "import threading; threading.Timer(0.1, print, ('late',)).start()",
    "place": "print(os.getcwd(), os.environ['MARK'], sys.stdin.read(), sys.stdout.isatty())",
}


@each_case("way", ENDS)
def test_streams_arguments_place_and_end_are_those_of_python(tmp_path: Path, way: str) -> None:
    (tmp_path / "script.py").write_text(BEGIN + ENDS[way])
    env = environment(MARK=way)
    for words in (["-c", BEGIN + ENDS[way]], ["script.py"], ["-m", "script"]):
        words.append("an argument")
        ours = prepared.run(*words, cwd=tmp_path, env=env)
        python = subprocess.run(
            [sys.executable, "-S", *words], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        assert (ours.returncode, ours.stdout) == (python.returncode, python.stdout)
        assert ours.stderr.splitlines()[-1:] == python.stderr.splitlines()[-1:]


def test_two_run_at_a_time_and_what_takes_too_long_can_be_killed() -> None:
    slow = prepared.Prepared("-c", "import time; print('begun', flush=True); time.sleep(60)")
    assert prepared.run("-c", "print(1)").stdout == "1\n"
    with pytest.raises(subprocess.TimeoutExpired):
        slow.communicate(0.2)
    slow.kill()
    assert slow.returncode == -signal.SIGKILL
    assert slow.communicate(1) == ("begun\n", "")
