"""Integer codes of matrices as one stream, with their lines sorted by the spread of the codes.

Codes of a trained weight are nearly independent draws from a bell curve. Its width differs between
rows or, in the MLP's second matrix, between columns. The *lines* of a bank are whichever differ
more. Lines of similar width are adjacent, so that any coder can use their statistics; rANS
(`artifact.format.ans`) has one distribution for each class of lines. The stream holds the class of
every line, from which the order follows: by class, then by bank, then by line.

If contexts by row and by column (`artifact.format.crossed`) take fewer bytes, codes are in the
order of the banks instead, the first block is empty, and the classes are of all rows and columns.

    1 byte    number of classes
    1 byte    which coder coded the symbols
    4 blocks  each 4 bytes of size, then: a byte per bank, 1 if its lines are columns; the class of
              every line, a byte each, and the distributions of the classes, both packed by
              `artifact.format.coding`; the symbols, which are codes + top
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artifact.format import ans, coding, crossed
from artifact.grid import top_code

FINEST = 16  # classes; if fewer suffice, neighbours are merged
NUMBERS = (1, 4, FINEST)
BY_LIBRARY, BY_ANS, CROSSED = 0, 1, 2
SAMPLE = 1 << 15  # symbols that the coders compete on: brotli takes two seconds for a million
BLOCKS = 4
HEAD = struct.Struct("<BB")
SIZE = struct.Struct("<I")


@dataclass(frozen=True)
class Order:
    """The position of each line in a stream.

    Attributes:
        shapes: (lines, length) of each bank.
        classes: (all lines,) uint8, bank after bank.
    """

    shapes: Sequence[tuple[int, int]]
    classes: np.ndarray

    def runs(self) -> list[tuple[int, int, np.ndarray]]:
        """Return the stream's parts: (class, bank, its lines of that class), none empty."""
        ends = np.cumsum([lines for lines, _ in self.shapes])[:-1]
        of_banks = np.split(self.classes, ends)
        found = [
            (number, bank, np.flatnonzero(classes == number))
            for number in range(FINEST)
            for bank, classes in enumerate(of_banks)
        ]
        return [run for run in found if len(run[2])]

    def contexts(self) -> np.ndarray:
        """Return the class of each symbol of the stream, uint8."""
        runs = self.runs()
        sizes = [len(lines) * self.shapes[bank][1] for _, bank, lines in runs]
        return np.repeat(np.array([number for number, _, _ in runs], np.uint8), sizes)

    def gather(self, banks: Sequence[np.ndarray]) -> np.ndarray:
        """Return the stream (symbols,) int8 of ``banks``, each (lines, length) int8."""
        parts = [banks[bank][lines].reshape(-1) for _, bank, lines in self.runs()]
        return np.concatenate([np.empty(0, np.int8), *parts])

    def scatter(self, stream: np.ndarray) -> list[np.ndarray]:
        """Undo `gather`."""
        banks, read = [np.empty(shape, stream.dtype) for shape in self.shapes], 0
        for _, bank, lines in self.runs():
            size = len(lines) * self.shapes[bank][1]
            banks[bank][lines] = stream[read : read + size].reshape(len(lines), -1)
            read += size
        return banks


def pack(banks: Sequence[np.ndarray], bits: int) -> bytes:
    """Return one stream of all codes of ``banks``, each (n, rows, cols) int8."""
    transposed = [
        _unevenness(_lines(bank, True)) > _unevenness(_lines(bank, False)) for bank in banks
    ]
    lines = [_lines(bank, transpose) for bank, transpose in zip(banks, transposed, strict=True)]
    shapes = [(len(of_bank), of_bank.shape[1]) for of_bank in lines]
    size, order, model, described = _cheapest(lines, Order(shapes, _classes(lines)), bits)
    symbols, contexts = _symbols(order, lines, bits), order.contexts()
    coder = BY_ANS
    if _library_is_shorter(symbols, contexts, model, len(described[1])):
        described = described[0], coding.pack(b"")
        coder, body = BY_LIBRARY, coding.pack(symbols.tobytes())
    elif blocks := _crossed(banks, bits, size):
        return _together(crossed.CONTEXTS, CROSSED, (b"", *blocks))
    else:
        body = ans.encode(symbols, contexts, model)
    return _together(len(model.frequencies), coder, (bytes(transposed), *described, body))


def unpack(packed: bytes, shapes: Sequence[tuple[int, int, int]], bits: int) -> list[np.ndarray]:
    """Undo `pack`, given the shape of each bank.

    Raises:
        ValueError: ``packed`` is not a stream of such banks.
    """
    number, coder, (transposed, packed_classes, tables, body) = _take_apart(packed)
    if coder == CROSSED and not transposed:
        return _read_crossed(packed_classes, tables, body, shapes, bits)
    order = _read_order(transposed, packed_classes, shapes, number)
    top = top_code(bits)
    if coder == BY_ANS:
        raw = coding.unpack(tables, 2 * number * (2 * top + 1))
        model = ans.Model.from_bytes(raw, number, 2 * top + 1)
        symbols = ans.decode(body, order.contexts(), model)
    else:
        raw = coding.unpack(body, sum(math.prod(shape) for shape in shapes))
        symbols = np.frombuffer(raw, np.uint8)
    if (symbols > 2 * top).any():
        raise ValueError(f"a code does not have {bits} bits")
    found = order.scatter((symbols - np.uint8(top)).view(np.int8))
    return [
        lines.reshape(n, columns, rows).swapaxes(1, 2)
        if transpose
        else lines.reshape(n, rows, columns)
        for lines, transpose, (n, rows, columns) in zip(found, transposed, shapes, strict=True)
    ]


def _together(number: int, coder: int, blocks: Sequence[bytes]) -> bytes:
    head = HEAD.pack(number, coder)
    return head + b"".join(SIZE.pack(len(block)) + block for block in blocks)


def _crossed(banks: Sequence[np.ndarray], bits: int, most: float) -> tuple[bytes, ...]:
    """Return classes, distributions and symbols in contexts by row and column.

    Nothing if the stream is short, or they need more than ``most`` bytes.
    """
    if sum(bank.size for bank in banks) <= SAMPLE:
        return ()
    top, found = top_code(bits), np.concatenate([crossed.classes(bank) for bank in banks])
    contexts = crossed.contexts(found, [bank.shape for bank in banks])
    symbols = np.concatenate([bank.reshape(-1) for bank in banks]) + np.int8(top)
    counts = ans.count(symbols.view(np.uint8), contexts, (crossed.CONTEXTS, 2 * top + 1))
    model = ans.Model.fit(counts)
    described = coding.pack(found.tobytes()), coding.pack(model.to_bytes())
    if model.bits(counts) / 8 + sum(map(len, described)) >= most:
        return ()
    return *described, ans.encode(symbols.view(np.uint8), contexts, model)


def _read_crossed(
    packed: bytes, tables: bytes, body: bytes, shapes: Sequence[tuple[int, int, int]], bits: int
) -> list[np.ndarray]:
    """Undo `_crossed`."""
    top, sizes = top_code(bits), [math.prod(shape) for shape in shapes]
    found = coding.unpack(packed, sum(n * (rows + columns) for n, rows, columns in shapes))
    raw = coding.unpack(tables, 2 * crossed.CONTEXTS * (2 * top + 1))
    model = ans.Model.from_bytes(raw, crossed.CONTEXTS, 2 * top + 1)
    contexts = crossed.contexts(np.frombuffer(found, np.uint8), shapes)
    symbols = (ans.decode(body, contexts, model) - np.uint8(top)).view(np.int8)
    parts = np.split(symbols, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _lines(bank: np.ndarray, transposed: bool) -> np.ndarray:
    """Return the rows (lines, length) of all matrices of a bank, or their columns."""
    bank = bank.swapaxes(1, 2) if transposed else bank
    return bank.reshape(bank.shape[0] * bank.shape[1], bank.shape[2])


def _read_order(
    transposed: bytes, packed: bytes, shapes: Sequence[tuple[int, int, int]], number: int
) -> Order:
    """Return the order of a stream. Raises ValueError if there is none."""
    if len(transposed) != len(shapes) or max(transposed, default=0) > 1:
        raise ValueError("a stream of codes has the wrong form")
    of_lines = [
        (n * columns, rows) if transpose else (n * rows, columns)
        for transpose, (n, rows, columns) in zip(transposed, shapes, strict=True)
    ]
    classes = np.frombuffer(coding.unpack(packed, sum(lines for lines, _ in of_lines)), np.uint8)
    if (classes >= number).any():
        raise ValueError("a line is of a class that its stream does not have")
    return Order(of_lines, classes)


def _take_apart(packed: bytes) -> tuple[int, int, list[bytes]]:
    """Return the number of classes, the coder and the four blocks of a stream."""
    if len(packed) < HEAD.size:
        raise ValueError("a stream of codes is cut short")
    number, coder = HEAD.unpack_from(packed)
    numbers = {BY_LIBRARY: NUMBERS, BY_ANS: NUMBERS, CROSSED: (crossed.CONTEXTS,)}
    if number not in numbers.get(coder, ()):
        raise ValueError("a stream of codes has the wrong form")
    blocks, read = [], HEAD.size
    for _ in range(BLOCKS):
        begin = read + SIZE.size
        read = begin + int.from_bytes(packed[read:begin], "little")
        blocks.append(packed[begin:read])
    if read != len(packed):
        raise ValueError("a stream of codes is cut short")
    return number, coder, blocks


def _spread(lines: np.ndarray) -> np.ndarray:
    """Return the mean magnitude of each line (lines, length), fp32."""
    return np.abs(lines).mean(axis=1, dtype=np.float32) if lines.size else np.zeros(len(lines))


def _unevenness(lines: np.ndarray) -> float:
    """Return how much the lines' spreads differ."""
    return float(np.log(_spread(lines) + 0.1).var()) if lines.size else 0.0


def _classes(banks: Sequence[np.ndarray]) -> np.ndarray:
    """Return every line's class of ``FINEST``, uint8: as many lines in each, by their spread."""
    spread = np.concatenate([np.empty(0), *map(_spread, banks)])
    rank = np.empty(len(spread), np.int64)
    rank[spread.argsort(kind="stable")] = np.arange(len(spread))
    return (rank * FINEST // max(len(spread), 1)).astype(np.uint8)


def _symbols(order: Order, banks: Sequence[np.ndarray], bits: int) -> np.ndarray:
    return (order.gather(banks) + np.int8(top_code(bits))).view(np.uint8)


def _cheapest(
    banks: Sequence[np.ndarray], finest: Order, bits: int
) -> tuple[float, Order, ans.Model, tuple[bytes, bytes]]:
    """Return the fewest bytes of a stream, and order and distributions that take them.

    Last come both again as they are stored: the class of every line, and the distributions.
    """
    shape = (FINEST, 2 * top_code(bits) + 1)
    counts = ans.count(_symbols(finest, banks, bits), finest.contexts(), shape)
    found = []
    for number in NUMBERS:
        merge = FINEST // number
        merged = counts.reshape(number, merge, -1).sum(axis=1)
        order, model = Order(finest.shapes, finest.classes // merge), ans.Model.fit(merged)
        described = coding.pack(order.classes.tobytes()), coding.pack(model.to_bytes())
        size = model.bits(merged) / 8 + sum(map(len, described))
        found.append((size, order, model, described))
    return min(found, key=lambda choice: choice[0])


def _library_is_shorter(
    symbols: np.ndarray, contexts: np.ndarray, model: ans.Model, tables: int
) -> bool:
    """Return whether a library needs fewer bytes than rANS for a sample of ``symbols``.

    Of all of them, distributions take ``tables`` bytes more.
    """
    begin = max(0, (len(symbols) - SAMPLE) // 2)
    sample = slice(begin, begin + SAMPLE)
    by_library = len(coding.pack(symbols[sample].tobytes()))
    ours = len(ans.encode(symbols[sample], contexts[sample], model))
    if len(symbols) <= SAMPLE:
        ours += tables
    else:
        # A library fits itself to the few lines of a sample, more than it can to all.
        by_library *= 1.02
    return by_library < ours
