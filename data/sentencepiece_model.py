"""The smallest tokenizer of a given vocabulary, without text to train on."""

import struct

CONTROL, UNKNOWN, NORMAL = 3, 2, 1


def minimal_model(vocab_size: int, bos_id: int) -> bytes:
    """Return a SentencePiece model of control pieces and of made-up words.

    Args:
        vocab_size: number of pieces, at least ``bos_id + 3``.
        bos_id: the piece that begins documents.
    """
    names = (("<s>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN))
    special = {bos_id + place: each for place, each in enumerate(names)}
    pieces = []
    for token in range(vocab_size):
        text, kind = special.get(token, (f"w{token}", NORMAL))
        # A message of the format's protocol buffer: text, score, type.
        numbers = b"\x15" + struct.pack("<f", 0.0) + b"\x18" + bytes([kind])
        pieces.append(_field(1, _field(1, text.encode()) + numbers))
    return b"".join(pieces)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, *_varint(len(content))]) + content


def _varint(value: int) -> list[int]:
    return [value] if value < 128 else [value & 127 | 128, *_varint(value >> 7)]
