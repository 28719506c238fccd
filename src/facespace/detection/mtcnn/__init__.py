"""MTCNN with the weights and the arithmetic of 2018.

Begin with `detector.MTCNN`, the cascade; `networks` rebuilds P-, R- and O-Net, `pyramid` lays the scaled images out on
canvases, `area_resize` resizes as the original does.
"""
