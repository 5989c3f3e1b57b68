"""Matplotlib's figures: shown at the end of the run, or at plt.show(), then closed.

Nothing here imports matplotlib until somebody else does; then its default backend is `backend.py` beside this file.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

BACKEND = "module://sandlot_python.backend"


class BackendFinder:
    """Makes ours the default backend in the moment that matplotlib is imported.

    By $MPLBACKEND every program started from here would inherit a backend that it cannot import.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find matplotlib as everybody does, and have its import end with a word of ours."""
        if name != "matplotlib":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)
            return spec
        load = spec.loader.exec_module

        def load_and_set(module: ModuleType) -> None:
            load(module)
            if not os.environ.get("MPLBACKEND"):
                module.rcParams["backend"] = BACKEND

        spec.loader.exec_module = load_and_set  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Wait for matplotlib to be imported."""
    sys.meta_path.insert(0, BackendFinder())


def use_backend() -> None:
    """Go back to our backend, whatever has been chosen before."""
    import matplotlib

    matplotlib.use(BACKEND)


def as_png(figure: Any) -> bytes | None:
    """Return what a figure looks like; None for an empty one."""
    from IPython.core.pylabtools import print_figure

    return print_figure(figure)


def show_open() -> None:
    """Display the open figures of our backend, oldest first, and close them."""
    from IPython.display import display

    for manager in _ours():
        figure = manager.canvas.figure
        _gcf().destroy(manager)
        if figure.axes or figure.lines:
            display(figure)


def close(value: object) -> None:
    """Close a figure of our backend; other values are no business of ours."""
    if "matplotlib.figure" not in sys.modules:
        return
    for manager in _ours():
        if manager.canvas.figure is value:
            _gcf().destroy(manager)


def _gcf() -> Any:
    return sys.modules["matplotlib._pylab_helpers"].Gcf


def _ours() -> list[Any]:
    if "matplotlib._pylab_helpers" not in sys.modules or "sandlot_python.backend" not in sys.modules:
        return []
    canvas = sys.modules["sandlot_python.backend"].FigureCanvas
    return [manager for manager in _gcf().get_all_fig_managers() if isinstance(manager.canvas, canvas)]
