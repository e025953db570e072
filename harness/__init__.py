"""From a task to a small model that may ship: augment, train, eval, report, check.

`tune` and `Run` are the same in Python, and the exceptions are all that they raise. They are imported when they are
first asked for, so that `import harness` costs nothing.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["HarnessError", "Interrupted", "MachineError", "Run", "Stop", "UsageError", "tune"]

if TYPE_CHECKING:
    from harness.api import Run, tune
    from harness.core.terminal import Stop
    from harness.errors import HarnessError, Interrupted, MachineError, UsageError
else:
    _PLACES = {"Run": "api", "tune": "api", "Stop": "core.terminal"}  # every other name is an error's

    def __getattr__(name):  # noqa: ANN001, ANN202  # hidden from type checkers, which read the imports above
        """A public name, from the module that has it."""
        if name not in __all__:
            raise AttributeError(f"module 'harness' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"harness.{_PLACES.get(name, 'errors')}"), name)

    def __dir__():  # noqa: ANN202
        """The public names."""
        return [*__all__, "__version__"]
