"""How a kernel is launched: one row of a kernel file's ``LAUNCH`` table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Tile, warps, pipeline stages and programs of a kernel.

    Attributes:
        rows: of a program's tile.
        columns: of a program's tile, or keys of an attention tile.
        depth: how much of the sum a step of a product takes.
        elements: of a program's tile or chunk, if it is not cut into rows and columns.
        warps: of a program.
        stages: of the software pipeline, or tiles of a ring; 3 is Triton's default.
        programs: of a persistent grid. A constant, not the GPU's number of multiprocessors, where
            it sets the order in which sums over rows are taken.
        registers: at most so many a thread, so that more programs share a multiprocessor.
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
        """Return what Triton's launch is passed beside a kernel's arguments."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}
