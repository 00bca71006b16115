"""Runs and environments on every kind of corpus that a level names."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.results import as_lines, evaluate_run, load_run, sample
from seqgan_rl.adversarial.run_folder import RunFolder
from seqgan_rl.adversarial.trainer import train
from seqgan_rl.cli import main
from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import load_corpus, read_melody, write_midi

SHORT: dict[str, Any] = {"controls": [], "rounds": 1}


def integers(folder: Path) -> Path:
    path = folder / "ids.txt"
    rows = np.random.default_rng(0).integers(0, 9, size=(150, 5))
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()))
    return path


def poems(folder: Path) -> Path:
    path = folder / "poems.txt"
    rng, characters = np.random.default_rng(0), list("天地玄黄宇宙洪荒日月")
    verses = ["".join(rng.choice(characters, size=5)) for _ in range(4 * 120)]
    lines = ["{}，{}。{}，{}。\n".format(*verses[i : i + 4]) for i in range(0, len(verses), 4)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def tunes(folder: Path) -> Path:
    pytest.importorskip("mido")
    path, rng = folder / "tunes", np.random.default_rng(0)
    path.mkdir()
    for i in range(60):
        write_midi(path / f"{i}.mid", rng.integers(30, 42, size=24), join_repeats=False)
    return path


def pieces(folder: Path) -> Path:
    pytest.importorskip("tokenizers")
    path, words = folder / "lines.txt", ["cat", "dog", "sees", "the", "sea", "rain"]
    rng = np.random.default_rng(0)
    path.write_text("".join(" ".join(rng.choice(words, size=4)) + "\n" for _ in range(200)))
    return path


CASES = {"integer": (integers, 5), "quatrain": (poems, 20), "pitch": (tunes, 8), "bpe": (pieces, 12)}


@pytest.mark.parametrize("level", CASES)
def test_a_corpus_of_every_level_is_trained_on_sampled_and_played(tiny, tmp_path, level):
    make, T = CASES[level]
    source = make(tmp_path)
    vocabulary: dict[str, Any] = {"max_vocab": 280} if level == "bpe" else {}
    data = {"corpus": str(source), "level": level, "sequence_length": T, "drop_longer": True, **vocabulary}
    config = tiny(**SHORT, data=data)
    train(config, tmp_path / "run", progress=False)
    corpus = RunData.load(RunFolder(tmp_path / "run")).corpus
    assert (
        corpus.content_hash
        == load_corpus(
            source, level=level, sequence_length=T, drop_longer=True, seed=config.data.data_seed, **vocabulary
        ).content_hash
    )
    assert corpus.sequence_length == T
    assert len(sample(tmp_path / "run", 5)) == 5
    arguments = {name: value for name, value in data.items() if name != "corpus"}
    env = gym.make("SeqGAN/Corpus-v0", corpus=str(source), reward="bleu", rollout_policy="uniform", **arguments)
    task: Any = env.unwrapped.task  # type: ignore[attr-defined]
    assert (task.sequence_length, task.corpus.vocabulary.level) == (T, corpus.vocabulary.level)
    if level != "bpe":  # pieces follow from the split
        assert {*task.corpus.vocabulary.words} == {*corpus.vocabulary.words}
    if level == "pitch":
        scores = evaluate_run(tmp_path / "run", n_samples=16).scores("SeqGAN").samples
        assert scores is not None
        assert 30 <= scores.values["mean_pitch"] < 42  # all keys of the corpus lie there
        assert main(["sample", "--run", str(tmp_path / "run"), "-n", "2", "--midi", str(tmp_path / "out")]) == 0
        written = [read_melody(path) for path in sorted((tmp_path / "out").iterdir())]
        expected = [[int(word) for word in line.split()] for line in sample(tmp_path / "run", 2)]
        assert [melody.tolist() for melody in written] == expected


def test_a_run_and_an_environment_on_a_corpus_that_was_saved(tiny, text_file, tmp_path, caplog):
    """The splits and ids of the first run, whatever has become of its text; what was left out of it is said."""
    text = tmp_path / "text.txt"
    text.write_text(text_file.read_text() + "\none line that is longer than any other of them all is\n")
    data = {"corpus": str(text), "level": "word", "sequence_length": 8, "drop_longer": True}
    with caplog.at_level("INFO"):
        train(tiny(controls=[], rounds=0, data=data), tmp_path / "first", progress=False)
    assert "corpus: 1 line of more than 8 units dropped from text.txt" in caplog.messages
    text.unlink()
    saved = tmp_path / "first" / "corpus"
    train(
        tiny(controls=[], rounds=0, data={"corpus": str(saved), "sequence_length": 8}),
        tmp_path / "second",
        progress=False,
    )
    first, second = (RunData.load(RunFolder(tmp_path / name)).corpus for name in ("first", "second"))
    assert first.content_hash == second.content_hash
    discriminator, generator = (str(tmp_path / "second" / part) for part in ("discriminator", "mle"))
    env = gym.make("SeqGAN/Corpus-v0", corpus=str(saved), discriminator=discriminator, rollout_policy=generator)
    task: Any = env.unwrapped.task  # type: ignore[attr-defined]
    assert task.corpus.content_hash == first.content_hash
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(InputError, match="min_count: it is made already, with sequence_length=8; leave it out"):
        gym.make("SeqGAN/Corpus-v0", corpus=str(saved), min_count=3)


def test_what_a_level_or_command_does_not_take_is_one_line(tiny, tmp_path, capsys):
    source = integers(tmp_path)
    for data, words in (
        ({"corpus": str(source), "level": "integer", "lowercase": True}, "lowercase: not for level 'integer'"),
        ({"corpus": "proverbs", "level": "pitch"}, "the built-in corpus is read at word, char or bpe"),
        ({"corpus": str(tmp_path)}, "MIDI files are read at --level pitch"),
    ):
        with pytest.raises(InputError, match=words):
            train(tiny(**SHORT, data=data), tmp_path / "none", progress=False)
    with pytest.raises(InputError, match="level must be one of word, char, bpe"):
        gym.make("SeqGAN/Corpus-v0", corpus=str(source), level="ids")
    train(tiny(controls=[], rounds=0), tmp_path / "run", progress=False)
    capsys.readouterr()
    assert main(["sample", "--run", str(tmp_path / "run"), "--midi", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "midi is for runs on music" in err


def test_control_characters_of_a_sample_stay_on_its_line(tiny, tmp_path):
    """Byte-pair pieces hold all bytes, the line feed and ESC among them."""
    pytest.importorskip("tokenizers")
    source = pieces(tmp_path)
    data = {"corpus": str(source), "level": "bpe", "sequence_length": 12, "drop_longer": True, "max_vocab": 280}
    train(tiny(controls=[], rounds=0, data=data), tmp_path / "run", progress=False)
    _, run_data, generator = load_run(tmp_path / "run")
    vocabulary = run_data.corpus.vocabulary
    line_feed = next(i for i in range(vocabulary.vocab_size) if vocabulary.decode([i]) == "\n")
    tokens_BT = generator.sample(1, rng=np.random.default_rng(0))
    tokens_BT[0, :] = generator.pad_id
    tokens_BT[0, :2] = line_feed
    assert as_lines(run_data, tokens_BT) == [r"\x0a\x0a"]
