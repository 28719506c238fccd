"""Videos and cameras: frames are read, and their faces are tracked and named.

Begin with `naming.VideoNamer`. `reader` reads video files and finds their `cuts`, `camera` and `streams` read the newest
picture of a camera, `tracker` follows faces, and `appearances` are the result. `drawing` and `subrip` write it as a video
or as subtitles. `sources` and `watching` report the people whom cameras see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.video.appearances import Appearance as Appearance
    from facespace.video.camera import read_camera as read_camera
    from facespace.video.drawing import draw_video as draw_video
    from facespace.video.naming import VideoNamer as VideoNamer
    from facespace.video.reader import Frame as Frame, read_frames as read_frames
    from facespace.video.subrip import subtitles as subtitles
    from facespace.video.tracker import Tracker as Tracker

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "appearances": ["Appearance"],
        "camera": ["read_camera"],
        "drawing": ["draw_video"],
        "naming": ["VideoNamer"],
        "reader": ["Frame", "read_frames"],
        "subrip": ["subtitles"],
        "tracker": ["Tracker"],
    },
)
