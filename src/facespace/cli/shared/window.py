"""A window that shows pictures one after the other, until it is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facespace.errors import RuntimeUnavailable
from facespace.io.text import first_line

if TYPE_CHECKING:
    from PIL.Image import Image


class Window:
    """One window on the screen, by tkinter, which comes with Python; q, Escape and its button close it.

    Raises `RuntimeUnavailable` where there is no screen or no tkinter. `closed` says whether it is gone.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            reason = f"no window: this Python has no tkinter ({first_line(error)}); on Debian: apt install python3-tk"
            raise RuntimeUnavailable(reason) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise RuntimeUnavailable(f"no window: there is no screen here ({first_line(error)})") from error
        self._photo_image: Any = ImageTk.PhotoImage
        self._shown: Any = None
        self.closed = False
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda _: self.close())

    def show(self, picture: Image, title: str) -> None:
        """Replace the picture and the title, and see what the user did meanwhile; nothing once it is closed."""
        if self.closed:
            return
        # Tk keeps no reference to what a label shows; without ours the picture would be freed.
        shown = self._photo_image(picture, master=self._root)
        self._label.configure(image=shown)
        self._shown = shown
        self._root.title(title)
        self._root.update()

    def close(self) -> None:
        """Take the window away; a second time does nothing."""
        if not self.closed:
            self.closed = True
            self._root.destroy()
