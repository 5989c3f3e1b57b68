"""The matplotlib backend of a context. Imported by matplotlib alone, see figures.py."""

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sandlot_python import figures


class FigureManager(FigureManagerBase):
    """plt.show() displays all open figures and closes them; figure.show() displays one and leaves it open."""

    @classmethod
    def pyplot_show(cls, *, block: object = None) -> None:
        """Show all."""
        figures.show_open()

    def show(self) -> None:
        """Show this one."""
        from IPython.display import display

        display(self.canvas.figure)


class FigureCanvas(FigureCanvasAgg):
    """Agg, under a manager that shows."""

    manager_class = FigureManager
