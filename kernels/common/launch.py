"""How a kernel is launched: one row of a kernel file's ``LAUNCH`` table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Tile, warps, pipeline stages and programs of a kernel.

    Attributes:
        rows: of a program's tile.
        columns: of a program's tile, or keys of an attention tile.
        depth: terms of the sum in one step of a product.
        elements: of a program's tile or chunk, if it is not cut into rows and columns.
        warps: of a program.
        stages: of the software pipeline, or tiles of a ring; 3 is Triton's default.
        programs: of a persistent grid. It is a constant instead of the GPU's number of
            multiprocessors if it sets the order of sums over rows.
        registers: most registers of a thread, so that more programs fit a multiprocessor.
    """

    rows: int = 0
    columns: int = 0
    depth: int = 0
    elements: int = 0
    warps: int = 4
    stages: int = 3
    programs: int = 0
    registers: int | None = None

    @property
    def options(self) -> dict[str, int | None]:
        """Return the options of Triton's launch."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}
