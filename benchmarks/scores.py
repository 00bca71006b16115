"""BLEU and Self-BLEU beside nltk's, on the same sequences in one run; and all sample scores.

    python benchmarks/scores.py [--hypotheses 1000 --references 10000 --nltk-part 4]

nltk scores ``--nltk-part`` hypotheses against all references, in one call for BLEU-2 to 5 each, as fast as it goes
(``sentence_bleu`` of several weights at once); its time for all is that of the part, scaled. Ours is timed on all of
them, counting of the references included. Words are drawn from a Zipf distribution, lengths from 5 to T; V, T and sizes
as COCO captions have them. Peak memory is that of the process, before nltk is loaded.
"""

import argparse
import platform
import resource
import time
import warnings
from collections.abc import Callable

import numpy as np

from seqgan_rl.evaluation import BleuReferences, SampleScorer
from seqgan_rl.evaluation.ngrams import Ints

WEIGHTS = [(1 / n,) * n for n in range(2, 6)]


def zipf_sequences(n: int, length: int, vocab_size: int, rng: np.random.Generator) -> Ints:
    """Sequences of Zipf-distributed words and uniform lengths; PAD is ``vocab_size``."""
    weights = 1 / np.arange(1, vocab_size + 1)
    tokens_NT = rng.choice(vocab_size, (n, length), p=weights / weights.sum())
    lengths_N = rng.integers(5, length + 1, n)
    return np.where(np.arange(length) < lengths_N[:, None], tokens_NT, vocab_size)


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds, the least of three calls, and the result."""
    least, result = np.inf, None
    for _ in range(3):
        start = time.perf_counter()
        result = call()
        least = min(least, time.perf_counter() - start)
    return least, result


def nltk_seconds(hypotheses: Ints, references: Ints, vocab_size: int, is_left_out: bool) -> tuple[float, np.ndarray]:
    """Seconds a hypothesis, and BLEU-2 to 5 of each; ``is_left_out``: hypothesis h is reference h."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    lists = [[word for word in row if word < vocab_size] for row in references.tolist()]
    smoothing, found = SmoothingFunction().method1, []
    start = time.perf_counter()
    for h, row in enumerate(hypotheses.tolist()):
        against = lists[:h] + lists[h + 1 :] if is_left_out else lists
        words = [word for word in row if word < vocab_size]
        found.append(sentence_bleu(against, words, weights=WEIGHTS, smoothing_function=smoothing))
    return (time.perf_counter() - start) / len(hypotheses), np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hypotheses", 1000), ("references", 10_000), ("vocabulary", 5000), ("length", 37)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--nltk-part", type=int, default=4, help="hypotheses that nltk scores")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    rng, V, part = np.random.default_rng(0), chosen.vocabulary, chosen.nltk_part
    hypotheses, references = (zipf_sequences(n, chosen.length, V, rng) for n in (chosen.hypotheses, chosen.references))
    print(f"{platform.machine()}; V={V}, T={chosen.length}, BLEU-2 to 5, method1")

    ours = {
        "BLEU": (timed(lambda: BleuReferences(references, V).sentence_bleu(hypotheses)), hypotheses),
        "Self-BLEU": (timed(lambda: BleuReferences(references, V).leave_one_out()), references),
    }
    all_scores = timed(lambda: SampleScorer(references, V).scores(hypotheses))[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n| {'':9} | {'hypotheses x references':>23} | {'ours, s':>8} | {'nltk, s':>22} | {'times':>8} | largest |")
    print(f"|{'-' * 11}|{'-' * 24}:|{'-' * 9}:|{'-' * 23}:|{'-' * 9}:|--------:|")
    for name, ((seconds, found), scored) in ours.items():
        each, theirs = nltk_seconds(scored[:part], references, V, is_left_out=name == "Self-BLEU")
        assert isinstance(found, np.ndarray)
        difference = np.abs(found[:part, 1:] - theirs).max()
        size, scaled = f"{len(scored):,} x {len(references):,}", f"{each * len(scored):,.0f} ({part} of them)"
        times = each * len(scored) / seconds
        print(f"| {name:9} | {size:>23} | {seconds:8.2f} | {scaled:>22} | {times:8,.0f} | {difference:7.0e} |")
    print(f'\n"largest": the largest difference of any BLEU. All sample scores of the hypotheses: {all_scores:.2f} s.')
    print(f"Peak memory of the process before nltk: {peak:.0f} MB, PyTorch among it.")


if __name__ == "__main__":
    main()
