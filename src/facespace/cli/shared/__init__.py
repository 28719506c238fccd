"""Code that several commands share: options, output, and naming people in photos, videos and camera frames.

Begin with `options` and `output`.
"""
