"""What is known of the contest's data, as published: the FineWeb validation documents as tokens."""

from dataclasses import dataclass

DOCUMENTS, TEXT_BYTES = 50_000, 151_080_891


@dataclass(frozen=True)
class Published:
    """A variant of the contest's validation split.

    Attributes:
        tokenizer: SHA-256 of its model, in hexadecimal.
        tokens: of the split; None where that was not published.
    """

    tokenizer: str
    tokens: int | None = None


VARIANTS = {
    "sp1024": Published(
        "849ea920119b5135ace5016137e82ab397738fc29d723d5f9a6b74c4e31af191", tokens=62_021_846
    ),
    "sp8192": Published("4e979c92754cc9d7bdebd9dfe5edf3fc0b41b38714b394e4297fa851e3afd516"),
}
