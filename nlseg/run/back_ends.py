"""Where else the numbers of a run go: TensorBoard, W&B, MLflow, Aim, trackio; none can end a run.

mmengine brings the back ends of all but trackio. One is chosen by a line of the config:
``visualizer = dict(vis_backends=['LocalVisBackend', 'WandbVisBackend'])``.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import VISBACKENDS as PARENTS
from mmengine.visualization.vis_backend import BaseVisBackend

from nlseg.errors import ConfigError, nearest
from nlseg.registry import VISBACKENDS
from nlseg.run.logs import LogGuard, as_number

_BACK_END_METHODS = (
    "add_config", "add_graph", "add_image", "add_scalar", "add_scalars", "close",
)  # fmt: skip
_PATIENCE = 3
_PACKAGES = {
    "AimVisBackend": "aim", "ClearMLVisBackend": "clearml", "DVCLiveVisBackend": "dvclive",
    "MLflowVisBackend": "mlflow", "NeptuneVisBackend": "neptune",
    "TensorboardVisBackend": "tensorboard", "TrackioVisBackend": "trackio",
    "WandbVisBackend": "wandb",
}  # fmt: skip
"""What each back end needs; the name of the module is also what pip installs."""


def check_installed(kind: str | type) -> None:
    """Refuse a back end whose package is not installed.

    Args:
        kind: Its registered name, also with a scope, or its class.

    Raises:
        ConfigError: Names the package, and how to install it.
    """
    name = kind if isinstance(kind, str) else kind.__name__
    package = _PACKAGES.get(name.rpartition(".")[2])
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"visualizer.vis_backends: {name} needs {package}, which is not installed; "
            f"pip install {package}"
        )


def guarded_back_ends(configs: Any, warn: Callable[[str], None]) -> list[dict[str, Any] | Any]:
    """Change the configs of a visualizer's back ends so that a failing one cannot end a run.

    Args:
        configs: One back end or a list of them, as names, as dicts or built.
        warn: Called with one line when a back end fails for the first time.

    Raises:
        ConfigError: A package is missing; a run is not to find out at its end that nobody logged.
    """
    given = configs if isinstance(configs, (list, tuple)) else [configs]
    guarded: list[Any] = []
    for config in given:
        if isinstance(config, str):
            config = {"type": _known(config)}
        if isinstance(config, dict):
            check_installed(config["type"])
            _allow_file_store(config)
            inner = {key: value for key, value in config.items() if key != "name"}
            entry = {"type": _build_back_end, "config": inner, "warn": warn}
            guarded.append(entry | ({"name": config["name"]} if config.get("name") else {}))
        else:
            guarded.append(_guard(config, warn))
    return guarded


def _allow_file_store(config: Mapping[str, Any]) -> None:
    """Let MLflow write into the run folder, as mmengine's back end does where no server is named.

    From version 3 on MLflow refuses to write files unless it is told to.
    """
    if str(config["type"]).endswith("MLflowVisBackend") and not config.get("tracking_uri"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")


def _known(name: str) -> str:
    """Return the name of a back end that there is.

    Raises:
        ConfigError: There is none; names the nearest.
    """
    if VISBACKENDS.get(name) is None:
        there = sorted({**PARENTS.module_dict, **VISBACKENDS.module_dict})
        raise ConfigError(
            f"visualizer.vis_backends: there is no {name!r}{nearest(name, there)}; there are "
            f"{', '.join(there)}"
        )
    return name


def _build_back_end(
    config: dict[str, Any], warn: Callable[[str], None], save_dir: str | None = None
) -> Any:
    return _guard(VISBACKENDS.build({"save_dir": save_dir, **config}), warn)


def _guard(back_end: Any, warn: Callable[[str], None]) -> Any:
    guard = LogGuard(type(back_end).__name__, warn, _PATIENCE)
    for name in _BACK_END_METHODS:
        method = getattr(back_end, name)

        def call(*args: Any, method: Callable[..., Any] = method, **options: Any) -> None:
            guard.run(lambda: method(*args, **options))

        setattr(back_end, name, call)
    return back_end


@VISBACKENDS.register_module()
class TrackioVisBackend(BaseVisBackend):
    """Log to trackio, which keeps runs on this machine; ``trackio show`` opens its page.

    Args:
        save_dir: Not used: trackio has a folder of its own, see its ``TRACKIO_DIR``.
        project: What runs are grouped by.
        name: Of the run; made up by trackio when not given.
        init_kwargs: More arguments of ``trackio.init``.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        project: str = "nlseg",
        name: str | None = None,
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self.project, self.run_name, self.init_kwargs = project, name, dict(init_kwargs or {})
        self._run: Any = None

    @property
    def experiment(self) -> Any:
        """The run of trackio, begun when it is first asked for."""
        if self._run is None:
            self._begin({})
        return self._run

    def _init_env(self) -> None:
        """Nothing is prepared: the run begins with its config, or with its first number."""

    def _begin(self, config: Mapping[str, Any]) -> None:
        import trackio

        given = {"project": self.project, "name": self.run_name, "config": dict(config)}
        self._run = trackio.init(**{**given, **self.init_kwargs})

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Begin a run with its hyper-parameters."""
        if self._run is None:
            self._begin({key: _plain(value) for key, value in config.to_dict().items()})

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Log an RGB picture (H, W, 3)."""
        import trackio

        self.experiment.log({name: trackio.Image(image)}, step=step)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Log a number."""
        self.add_scalars({name: value}, step)

    def add_scalars(
        self,
        scalar_dict: dict[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Log numbers; other values are left out."""
        numbers = {name: as_number(value) for name, value in scalar_dict.items()}
        found = {name: value for name, value in numbers.items() if value is not None}
        self.experiment.log(found, step=step)

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _plain(value: Any) -> Any:
    """Return a config value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
