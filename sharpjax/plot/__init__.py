"""Pictures of what the library measures: `pip install 'sharpjax[plot]'`.

Every function takes results (a `Comparison`, a `Point`, or what its own measurement returns) and
returns a matplotlib `Figure`, which a notebook shows and `figure.savefig` writes. Nothing goes
through pyplot and no setting is changed. `ax=` or `figure=` draws into what is there already; the
legend of `ax=` is then the caller's. An optimizer has one colour in all figures; what is clipped is
dashed.

    sharpness, atlas, convergence               of a comparison
    landscape, histogram, cosines               of a point
    lorenz, blocks, diagonal                    where the sharpness sits
    spectrum, gauss_newton, span                what the curvature is
    dominant, noise                             what of an update is dominant, and what is signal
    clip_curve, parts, plane                    clipped directions, parts of a loss, two at once
"""

try:
    import matplotlib  # noqa: F401
    import pandas  # noqa: F401
except ImportError as error:
    said = f"sharpjax.plot needs {error.name}: pip install 'sharpjax[plot]'"
    raise ImportError(said, name=error.name) from error

from sharpjax.plot._convergence import convergence
from sharpjax.plot._coordinates import blocks, diagonal, lorenz
from sharpjax.plot._curvature import gauss_newton, span, spectrum
from sharpjax.plot._landscape import landscape
from sharpjax.plot._magnitudes import cosines, histogram
from sharpjax.plot._pieces import clip_curve, parts, plane
from sharpjax.plot._sharpness import atlas, sharpness
from sharpjax.plot._signal import dominant, noise
from sharpjax.plot.style import Style, label

__all__ = [
    "Style",
    "atlas",
    "blocks",
    "clip_curve",
    "convergence",
    "cosines",
    "diagonal",
    "dominant",
    "gauss_newton",
    "histogram",
    "label",
    "landscape",
    "lorenz",
    "noise",
    "parts",
    "plane",
    "sharpness",
    "span",
    "spectrum",
]
