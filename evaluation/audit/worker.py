"""The entrant's process: it imports the entrant's code, and does what the judge asks of it.

A script that the judge starts, with two pipes. Until `enter` it imports nothing of the project; all
other modules than those in this folder are the entrant's then. What comes back are numbers only:
the judge's process decides.
"""

import sys
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from model.gpt import GPT


HERE = Path(__file__).resolve().parent
WATCHING = HERE.parents[1] / "runtime" / "watching.py"


def judges(path: Path) -> ModuleType:
    """Return a module of the judge's, which imports nothing of the project."""
    name = path.stem
    spec = spec_from_file_location(f"judges_{name}", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def enter(code: Path) -> None:
    """Make the entrant's modules the ones that are imported.

    Args:
        code: the project's folder, or its one packed file.
    """
    if code.is_dir():
        sys.path.insert(0, str(code))
        return
    script = ModuleType("entrant")
    script.__file__ = str(code)
    sys.modules["entrant"] = script
    exec(compile(code.read_bytes(), str(code), "exec"), script.__dict__)
    script.unpack(Path.cwd())


class Entrant:
    """The entrant's evaluation of an artifact.

    Args:
        words: ``artifact``, and ``settings`` by name.
        table: the columns of the judge's table of bytes.
        tell: called with the fraction of a question that is done.
    """

    def __init__(
        self,
        words: Mapping[str, Any],
        table: "Mapping[str, np.ndarray]",
        tell: Callable[[float], None],
    ) -> None:
        from data.tokenizer import ByteTable
        from evaluation.subject import network_of
        from evaluation.ttt.methods import scoring_function
        from runtime.device import device_type
        from runtime.ranks import World
        from settings import Settings

        self.observing, self.tell = judges(HERE / "observing.py"), tell
        settings = Settings(**words["settings"])
        self.world = World.start(device_type(settings.device))
        artifact = Path(words["artifact"])
        sys.modules["judges_watching"].allow(artifact)
        self.settings, self.model, self.backend = network_of(artifact, settings, self.world)
        self.table = ByteTable(table["base"], table["leading_space"], table["boundary"])
        self.score_fn = scoring_function(self.model, self.backend)
        self.dtype = str(self.model.dtype).removeprefix("torch.")

    def described(self) -> dict[str, Any]:
        """Return what computes, and how."""
        device, config = self.world.device.type, self.model.config
        found = {"backend": self.backend, "device": device, "dtype": self.dtype}
        return {**found, "vocab_size": config.vocab_size, "bos_id": config.bos_id}

    def score(self, words: Mapping[str, Any], arrays: "Mapping[str, np.ndarray]") -> Any:
        """Score tokens by windows."""
        from evaluation.score import Scoring, Split
        from evaluation.windows import WindowPlan, evaluate

        plan = WindowPlan.of(self.settings, words["stride"])

        def run(text: Any, record: Any, watch: Any) -> Any:
            scoring = Scoring(self.world, record=record if words["observe"] else None)
            return evaluate(self.score_fn, Split(text, self.table), plan, scoring)

        return self.observing.Observer(arrays["tokens"]).of(run)

    def adapt(self, words: Mapping[str, Any], arrays: "Mapping[str, np.ndarray]") -> Any:
        """Score tokens by test-time training."""
        from evaluation.score import Scoring, Split
        from evaluation.ttt.methods import score_adapting

        settings = self.settings.model_copy(update=words["changes"])
        lora, observing = settings.ttt_method != "sgd", self.observing
        again = None

        def sums(learner: Any) -> Any:
            choices = lora and getattr(learner, "choices", False)
            at_once = words["at_once"] if choices or not lora else 1
            return self._sums(learner.score, {**words, "at_once": at_once}, arrays, choices)

        summing = sums if "contexts" in arrays else None
        if "places" in arrays:
            again = observing.Again(
                arrays["tokens"],
                arrays["places"],
                arrays["starts"],
                lambda inputs, rows, last: self.distribution(inputs, rows, last, observer.learner),
                lora,
            )
        poison, tell = words["poison"], self.tell
        observer = observing.Observer(arrays["tokens"], poison, again, summing, tell)

        def run(text: Any, record: Any, watch: Any) -> Any:
            split, scoring = Split(text, self.table), Scoring(self.world, record=record)
            model, backend = self.model, self.backend
            return score_adapting(model, backend, split, settings, scoring, watch)

        return observer.of(run)

    def again(self, arrays: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Return the nats (P, V) of all tokens after ``last`` (P,) of ``inputs`` (B, T)."""
        import torch

        inputs, last = (torch.from_numpy(arrays[name]) for name in ("inputs", "last"))
        with torch.inference_mode():
            found = self.distribution(inputs, torch.arange(len(last)), last, None)
            return found.float().cpu().numpy()

    def sums(self, words: Mapping[str, Any], arrays: "Mapping[str, np.ndarray]") -> "np.ndarray":
        """Return the sums of probabilities by the function that scores windows."""
        return self._sums(self.score_fn, words, arrays)

    def _sums(
        self,
        score: Any,
        words: Mapping[str, Any],
        arrays: "Mapping[str, np.ndarray]",
        by_row: bool = False,
    ) -> "np.ndarray":
        import torch

        contexts = torch.from_numpy(arrays["contexts"]).to(self.world.device)
        vocab_size = self.model.config.vocab_size
        summed = self.observing.sums_of_probabilities
        return summed(score, contexts, words["scored"], vocab_size, words["at_once"], by_row)

    def distribution(
        self, inputs: "Tensor", rows: "Tensor", last: "Tensor", learner: Any
    ) -> "Tensor":
        """Return the nats (P, V) of all tokens after a place of some rows, by the network itself.

        No function that scores is called, and no target is known here.

        Args:
            inputs: (B, T) int32.
            rows, last: (P,) int64, the places.
            learner: whose adapters take part, if it has any.
        """
        import torch

        model: GPT = self.model
        inputs = inputs.to(self.world.device)
        if hasattr(learner, "reader"):  # it gives what precedes a chunk, but for two tokens
            reader = learner.reader
            last = last - reader.earlier
            if hasattr(learner, "states"):
                states = learner.states(inputs)
            else:
                states = reader.states(inputs, learner.hook(len(inputs)))
        else:
            states = model.hidden(inputs)
        states = states[rows, last][:, None]
        vocabulary = torch.arange(model.config.vocab_size, dtype=torch.int32, device=states.device)
        softcap, head = model.config.logit_softcap, model.output_head()
        return torch.cat(
            [
                model.ops.loss(
                    state.expand(1, len(vocabulary), -1).contiguous(),
                    head,
                    vocabulary[None],
                    softcap=softcap,
                )[1]
                for state in states
            ]
        )


def serve(reader: BinaryIO, writer: BinaryIO) -> None:
    """Answer the judge until it closes its pipe."""
    wire = judges(HERE / "wire.py")
    entrant: Entrant | None = None

    def tell(done: float) -> None:
        wire.send(writer, {"done": done}, {})

    while True:
        try:
            words, arrays = wire.receive(reader)
        except ValueError:
            return
        try:
            if words["ask"] == "open":
                entrant = Entrant(words, arrays, tell)
                answer = entrant.described(), {}
            elif words["ask"] == "seen":
                answer = sys.modules["judges_watching"].seen(), {}
            else:
                assert entrant is not None
                answer = asked(entrant, words, arrays)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}, {}
        wire.send(writer, *answer)


def asked(
    entrant: Entrant, words: Mapping[str, Any], arrays: "Mapping[str, np.ndarray]"
) -> "tuple[dict[str, Any], dict[str, np.ndarray]]":
    """Return the answer to one question."""
    if words["ask"] == "again":
        return {}, {"again": entrant.again(arrays)}
    if words["ask"] == "sums":
        return {}, {"sums": entrant.sums(words, arrays)}
    seen = {"score": entrant.score, "adapt": entrant.adapt}[words["ask"]](words, arrays)
    fields = vars(seen)
    numbers = {n: each for n, each in fields.items() if isinstance(each, int | dict)}
    return numbers, {n: each for n, each in fields.items() if n not in numbers}


def main() -> None:
    """Serve: arguments are the entrant's code and the pipes of questions and of answers."""
    code, questions, answers = map(Path, sys.argv[1:4])
    with questions.open("rb") as reader, answers.open("wb") as writer:
        sys.path.pop(0)  # this script's folder
        judges(WATCHING).install([code, HERE, WATCHING], [Path.cwd()])
        enter(code)
        serve(reader, writer)


if __name__ == "__main__":
    main()
