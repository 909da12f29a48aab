"""Common corruptions at five severities, after ImageNet-C (Hendrycks & Dietterich 2019, arXiv 1903.12261).

Severities have the figures of the paper's released code. Lengths in pixels are for its pictures of 224 pixels, and are
brought to a picture's own size by its shorter side, so that a corruption covers the same share of any picture. What is
random follows the seed and the picture alone, and is the same draw at every severity. The code is Sightline's own, on
NumPy and Pillow; where it cannot do as the paper's did (frost is laid on from photographs), the module says so.
"""
