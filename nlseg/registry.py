"""Registries: the names that config files use, children of mmengine's under the scope ``nlseg``.

A class is found by its name once the package that holds it is imported; ``locations`` names that
package, so that building from a config imports what the config needs and nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mmengine import registry as parents
from mmengine.registry import Registry

from nlseg.checked import checked, is_ours

SCOPE = "nlseg"
FOREIGN_SCOPE = "mmseg"

Cfg = dict[str, Any]
"""What a registry builds from: ``type`` and the arguments of that class."""


class CheckedRegistry(Registry):
    """A registry whose classes of this package check their arguments, see ``nlseg.checked``.

    A user's class that is registered here is left as it is.
    """

    def get(self, key: str) -> Any:
        """Return the class of a name; ``mmseg.NLHead`` is ours where we have it.

        Args:
            key: Name, with or without a scope.
        """
        scope, name = self.split_scope_key(key)
        if scope == FOREIGN_SCOPE:
            self.import_from_location()
            if name in self.module_dict:
                return self.module_dict[name]
        return super().get(key)

    def register_module(
        self,
        name: str | Sequence[str] | None = None,
        force: bool = False,
        module: Callable[..., Any] | None = None,
    ) -> Any:
        """Register a class or function, as a decorator or given as ``module``.

        Args:
            name: Its name, or several, in configs; the class's own where None.
            force: Whether to replace a class of that name.
            module: The class or function; without it a decorator is returned.
        """
        if module is None:
            return lambda built: self.register_module(name, force, built)
        if isinstance(module, type) and is_ours(module):
            module = checked(module)
        return super().register_module(name, force, module)


def _child(name: str, parent: Registry, *locations: str) -> CheckedRegistry:
    return CheckedRegistry(name, parent=parent, scope=SCOPE, locations=list(locations))


MODELS = _child("model", parents.MODELS, "nlseg.models")
DATASETS = _child("dataset", parents.DATASETS, "nlseg.datasets")
TRANSFORMS = _child("transform", parents.TRANSFORMS, "nlseg.datasets")
DATA_SAMPLERS = _child("data sampler", parents.DATA_SAMPLERS, "nlseg.datasets")
METRICS = _child("metric", parents.METRICS, "nlseg.evaluation")
EVALUATOR = _child("evaluator", parents.EVALUATOR, "nlseg.evaluation")
VISUALIZERS = _child("visualizer", parents.VISUALIZERS, "nlseg.visualization.visualizer")
TASK_UTILS = _child("task util", parents.TASK_UTILS, "nlseg.models")
HOOKS = _child(
    "hook", parents.HOOKS, "nlseg.run", "nlseg.doctor.hook", "nlseg.report.hook", "nlseg.zoo.hook"
)
LOOPS = _child("loop", parents.LOOPS, "nlseg.run")
RUNNERS = _child("runner", parents.RUNNERS, "nlseg.run")
OPTIM_WRAPPERS = _child("optimizer wrapper", parents.OPTIM_WRAPPERS, "nlseg.run")
PARAM_SCHEDULERS = _child("parameter scheduler", parents.PARAM_SCHEDULERS, "nlseg.run")
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    "optimizer wrapper constructor", parents.OPTIM_WRAPPER_CONSTRUCTORS, "nlseg.run"
)
OPTIMIZERS = _child("optimizer", parents.OPTIMIZERS, "nlseg.run")
WEIGHT_INITIALIZERS = _child(
    "weight initializer", parents.WEIGHT_INITIALIZERS, "nlseg.weights.pretrained"
)
MODEL_WRAPPERS = _child("model wrapper", parents.MODEL_WRAPPERS, "nlseg.run")
FUNCTIONS = _child("function", parents.FUNCTIONS, "nlseg.datasets")
LOG_PROCESSORS = _child("log processor", parents.LOG_PROCESSORS, "nlseg.run")
VISBACKENDS = _child("visualization backend", parents.VISBACKENDS, "nlseg.run")
