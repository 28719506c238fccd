"""A window that shows a sequence of images until it is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facespace.errors import RuntimeUnavailable
from facespace.io.text import first_line

if TYPE_CHECKING:
    from PIL.Image import Image


class Window:
    """A tkinter window. The key q, the key Escape and the close button close the window and set `closed` to True.

    Raises `RuntimeUnavailable` if there is no screen or no tkinter.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            reason = f"cannot open a window: this Python has no tkinter ({first_line(error)}); on Debian: apt install python3-tk"
            raise RuntimeUnavailable(reason) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise RuntimeUnavailable(f"cannot open a window: there is no screen ({first_line(error)})") from error
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
        """Replace the image and the title, and handle input; does nothing once the window is closed."""
        if self.closed:
            return
        # Tk keeps no reference to a label's image; without ours the image would be freed.
        shown = self._photo_image(picture, master=self._root)
        self._label.configure(image=shown)
        self._shown = shown
        self._root.title(title)
        self._root.update()

    def close(self) -> None:
        """Close the window; does nothing if it is closed."""
        if not self.closed:
            self.closed = True
            self._root.destroy()
