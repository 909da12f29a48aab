"""Which labels fit the images of a folder: their own, or those of files at their places in another order?"""

from __future__ import annotations

from dataclasses import dataclass

FITS, NOT = 8.0, 3.0  # standard deviations of the same measure over labels dealt at random
SURE = 24.0  # where several orders are tried: of one number and two classes, chance comes so far once in 10^8 times


@dataclass(frozen=True, slots=True)
class FiledSeen:
    """Answer of a probe: how far images and labels go together, in standard deviations above labels dealt at random.

    Attributes:
        samples: images that were compared: only those that the two orders put at different places.
        given: with the labels that they have. other: with those of the files at their places in the other order.
        order: that order: of the "numbers" in the names, or of the names as "texts"; of the "partners", labels that
            are files with the same numbers in their names; "shifted" rows, by `label_of`; or one that was "drawn".
        file, label_of: one of the images, and the file with whose label it would go together; or so of the rows.
    """

    step: int
    samples: int
    given: float
    other: float
    order: str
    file: str
    label_of: str

    @property
    def misfiled(self) -> bool:
        """Whether the labels stand in the other order."""
        return self.other >= FITS and self.given <= NOT

    @property
    def says(self) -> str:
        """It in words."""
        what = f"{self.samples} inputs do not go together with their labels, and do with those of other rows: "
        if self.order == "shifted":
            return f"{what}those {abs(int(self.label_of))} {'after' if int(self.label_of) > 0 else 'before'} their own"
        if self.order == "drawn":
            return f"{what}a permutation put one of both in another order (row {self.label_of} has that of {self.file})"
        what = f"{self.samples} images do not go together with their labels, and do with those of other files: the"
        example = f"({self.label_of} has that of {self.file})"
        if self.order == "partners":
            return f"{what} files of the labels have other numbers in their names than those of their images {example}"
        how = "of the numbers in their names" if self.order == "numbers" else "of their names"
        return f"{what} labels stand in the order {how}, the files do not {example}"
