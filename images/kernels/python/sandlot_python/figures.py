"""The figures of matplotlib: displayed at the end of the run, or at plt.show(), then closed.

This module does not import matplotlib. When other code does, its default backend becomes `backend.py` beside this file.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

BACKEND = "module://sandlot_python.backend"


class BackendFinder:
    """An import hook that sets the default backend at the moment when matplotlib is imported.

    $MPLBACKEND would not do: programs that are started from here would inherit a backend that they cannot import.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find matplotlib in the usual way, and set the backend at the end of its import."""
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


def use_backend(shell: Any) -> None:
    """Use this backend again, whichever was chosen before. `%config InlineBackend` works from then on.

    Figures that were begun under another backend belong to this one from now on. They are displayed when code draws on
    them again, or calls plt.show().
    """
    import matplotlib
    from matplotlib_inline.config import InlineBackend

    matplotlib.use(BACKEND)
    settings = InlineBackend.instance(parent=shell)
    settings.shell = shell
    if settings not in shell.configurables:
        shell.configurables.append(settings)
    for manager in _adopt():
        manager.canvas.figure.stale = False


def as_png(figure: Any) -> bytes | None:
    """Return the picture of a figure; None for an empty one."""
    from IPython.core.pylabtools import print_figure

    return print_figure(figure)


def show_open(*, at_end: bool = False) -> None:
    """Display the open figures, the oldest first, and close them; *at_end* of a run only if the code has drawn one."""
    from IPython.display import display

    managers = _ours()
    if at_end and all(manager.is_adopted and not manager.canvas.figure.stale for manager in managers):
        return
    for manager in managers:
        figure = manager.canvas.figure
        _gcf().destroy(manager)
        if figure.axes or figure.lines:
            display(figure)


def close(value: object) -> None:
    """Close a figure of this backend. Ignore other values."""
    if "matplotlib.figure" not in sys.modules:
        return
    for manager in _ours():
        if manager.canvas.figure is value:
            _gcf().destroy(manager)


def _gcf() -> Any:
    return sys.modules["matplotlib._pylab_helpers"].Gcf


def _ours() -> list[Any]:
    """Return the managers of this backend's figures. While the backend is chosen, these are all figures."""
    if "matplotlib._pylab_helpers" not in sys.modules or "sandlot_python.backend" not in sys.modules:
        return []
    if _is_chosen():
        _adopt()
    canvas = sys.modules["sandlot_python.backend"].FigureCanvas
    return [manager for manager in _gcf().get_all_fig_managers() if isinstance(manager.canvas, canvas)]


def _is_chosen() -> bool:
    chosen = sys.modules["matplotlib"].rcParams._get("backend")  # without choosing a backend if none is chosen
    return isinstance(chosen, str) and chosen.lower() == BACKEND


def _adopt() -> list[Any]:
    """Give the open figures of other backends a canvas of this one. Return their new managers."""
    if "matplotlib._pylab_helpers" not in sys.modules:
        return []
    from sandlot_python.backend import FigureCanvas

    adopted = []
    for number, manager in _gcf().figs.items():
        if not isinstance(manager.canvas, FigureCanvas):
            ours = FigureCanvas.new_manager(manager.canvas.figure, number)
            ours.is_adopted = True
            _gcf().figs[number] = ours  # at the same place: the order determines the current figure
            adopted.append(ours)
    return adopted
