"""MTCNN with the weights and the arithmetic of 2018.

Begin with `detector.MTCNN`, the cascade. `networks` rebuilds P-, R- and O-Net, `pyramid` packs the levels of the image
pyramid onto canvases, and `area_resize` resizes as the original program does.
"""
