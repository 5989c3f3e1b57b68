"""The matplotlib backend of a context. Only matplotlib imports it; see figures.py."""

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sandlot_python import figures


class FigureManager(FigureManagerBase):
    """The manager of a figure. plt.show() displays all open figures and closes them; figure.show() displays one."""

    is_adopted = False  # the figure was begun under another backend

    @classmethod
    def pyplot_show(cls, *, block: object = None) -> None:
        """Display and close all open figures."""
        figures.show_open()

    def show(self) -> None:
        """Display this figure."""
        from IPython.display import display

        display(self.canvas.figure)


class FigureCanvas(FigureCanvasAgg):
    """A canvas of Agg whose manager displays figures."""

    manager_class = FigureManager
