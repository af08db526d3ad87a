"""Where a tensor of our models stands: the library's, under the names that the records use."""

from sharpjax.models.tensor_places import FAMILIES, KINDS, family_of, place_of

__all__ = ["FAMILIES", "KINDS", "family_of", "place_of"]
