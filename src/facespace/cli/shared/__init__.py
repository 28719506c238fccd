"""What several commands share: options, output, naming people in photos, videos and camera pictures.

Begin with `options` and `output`.
"""
