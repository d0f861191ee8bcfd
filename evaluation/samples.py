"""Texts that a network writes while it is trained, to be read by people."""

from pathlib import Path

from data.vocabulary import read_tokenizer
from errors import printable
from evaluation.generation import Prompt, Sampling, written
from evaluation.writer import encoded
from model.gpt import GPT
from runtime.progress import Progress
from runtime.run_folder import RunFolder
from settings import Settings


class Samples:
    """Prints and logs a text of the live weights: always of the same prompt and random numbers.

    Args:
        settings: prompt and tokens; a context is a window of the evaluation.
        model: of the run.
        tokenizer: its file.
        folder: of the run.
        progress: prints a text as one line.

    Raises:
        InputError: the prompt encodes to nothing.
    """

    def __init__(
        self, settings: Settings, model: GPT, tokenizer: Path, folder: RunFolder, progress: Progress
    ) -> None:
        self.model, self.folder, self.progress = model, folder, progress
        self.tokenizer = read_tokenizer(tokenizer)
        tokens = encoded(self.tokenizer, settings.sample_prompt)
        self.prompt = Prompt(tokens, settings.seed)
        length = max(2, settings.eval_seq_len)
        self.sampling = Sampling(max_tokens=settings.sample_tokens, length=length)

    def __call__(self, step: int) -> None:
        """Write the text of a step."""
        pieces = written(self.model, self.tokenizer, [self.prompt], self.sampling)
        text = "".join(piece.characters for piece in pieces)
        self.progress.line(f"sample    {printable(text)}")
        self.folder.log("sample", step=step, text=text)
