"""Photographs, scans and drawings of MNIST's test digits, as encoded files: what strangers may send.

    picture = Maker.of_mnist().picture("photo", 7)
    picture.data, picture.label, picture.factors

The digits' strokes are traced and written again, with a pen of their own on a surface of its own. A picture depends on
its seed, its style and its number alone.
"""

from benchmarks.pictures.maker import STYLES, Maker, Picture

__all__ = ["STYLES", "Maker", "Picture"]
