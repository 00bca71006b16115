"""What a run is made of: its settings, and the presets.

A preset fixes everything but the data; its version rises when its numbers change.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
import yaml

from seqgan_rl.adversarial.algorithms import algorithms
from seqgan_rl.agents.policy_gradient import BASELINES
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import accepted, did_you_mean
from seqgan_rl.discriminators import DiscriminatorConfig, discriminators
from seqgan_rl.envs.episodes import ShapingOptions
from seqgan_rl.models.generator import generators
from seqgan_rl.models.likelihood import LikelihoodConfig
from seqgan_rl.models.oracle import check_task
from seqgan_rl.models.scheduled_sampling import ScheduledSamplingConfig
from seqgan_rl.models.vae import VAEConfig
from seqgan_rl.rewards import rewards
from seqgan_rl.sequences import CorpusLevel

CONTROLS = ("mle_continued", "constant", "random", "shuffled")
"""What a claim must beat; the preset "quick" runs them all."""
BASELINES_OF_RUNS = ("scheduled_sampling", "vae")
"""Other ways to fit the same data, run beside the agent when named among the controls."""
NAMED_CONTROLS = (*CONTROLS, *BASELINES_OF_RUNS)


def _options_from(words: Sequence[str]) -> dict[str, Any]:
    """``["n_epochs=4", "target_kl=0.1"]`` as a dictionary; values are read as YAML."""
    pairs = [word.partition("=") for word in words]
    if not all(name and sign for name, sign, _ in pairs):
        raise ValueError("options are given as NAME=VALUE")
    try:
        return {name: yaml.safe_load(value) for name, _, value in pairs}
    except yaml.YAMLError as error:
        raise ValueError(f"a value of the options cannot be read: {str(error).splitlines()[0]}") from None


Options = Annotated[
    Any,  # dict[str, Any], checked by AgentConfig
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=_options_from,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda options: [f"{name}={json.dumps(value)}" for name, value in options.items()],
    ),
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is real: sequences of an oracle, or lines of a text."""

    corpus: str | None = None
    """A UTF-8 text file with one sequence a line; a file of ids or poems, a MIDI file or a folder of them (see level);
    "hf:NAME[:CONFIG][#COLUMN]", a data set of the Hugging Face Hub; a folder that Corpus.to_files wrote, as corpus/ of
    a run; or "proverbs" (built in). None: the oracle's."""
    oracle: str = "0"
    """The oracle of the synthetic task: a seed, or an .npz file of the published form."""
    vocab_size: int = 5000
    """Words of a seeded oracle."""
    sequence_length: int | None = None
    """T. None: 20 on the oracle; on a text the longest line up to 64; on music 32."""
    train_size: int = 9984
    """Training sequences drawn from the oracle."""
    test_size: int = 9984
    """Held-out test sequences drawn from the oracle (a quarter as many for validation)."""
    level: CorpusLevel = "word"
    """How the corpus is read: word (punctuation split off), char, bpe (byte-pair pieces, extra text), integer (a file
    of ids), quatrain or quatrain-marks (poems), pitch or pitch-rests (MIDI files, extra music); see docs/corpora.md."""
    test: str | None = None
    """A text file with the test lines; None holds back 5 % of the corpus."""
    min_count: int | None = None
    """Words seen less often in training become <unk>. None: 1 (2 for the built-in corpus)."""
    max_vocab: int | None = None
    """Keep at most so many words, the commonest (bpe: pieces, 5,000 by default; integer: V)."""
    drop_longer: bool = False
    """Drop lines longer than T instead of refusing them (quatrain, pitch: also what is no quatrain, and MIDI files that
    cannot be used)."""
    lowercase: bool = False
    """Lower-case a text."""
    eos: Literal["auto", "always", "never"] = "auto"
    """End-of-sequence token; auto: none if all lines have one length."""
    data_seed: int = 2026
    """Seed of the data: the oracle's sequences, or the split of a text. Apart from the run's seed, so that seeds share
    their data."""

    def __post_init__(self) -> None:
        check_task(self.vocab_size, 20 if self.sequence_length is None else self.sequence_length)
        if self.data_seed < 0:
            raise InputError(f"data_seed must be at least 0, got {self.data_seed}")
        for name in ("train_size", "test_size"):
            if getattr(self, name) < 64:
                raise InputError(f"{name} must be at least 64, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The generator network."""

    name: str = "lstm"
    """A registered generator: lstm or transformer."""
    embedding_dim: int = 32
    """E, numbers per word of the LSTM."""
    hidden_dim: int = 32
    """H, units of the LSTM, or width of the transformer."""
    num_layers: int = 2
    """Layers of transformer."""
    num_heads: int = 4
    """Attention heads of transformer; they divide hidden_dim."""
    tied: bool = False
    """The output layer of transformer is its embedding."""
    init_std: float = 0.1
    """Standard deviation of every initial weight, as in the authors' program."""
    start_from_word_0: bool = False
    """Read word 0 before the first token, as the authors' program does, instead of a symbol of its own."""

    def __post_init__(self) -> None:
        _ = generators[self.name]
        if self.embedding_dim < 1 or self.hidden_dim < 1:
            raise InputError(
                f"embedding_dim and hidden_dim must be at least 1, got {self.embedding_dim}, {self.hidden_dim}"
            )

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the registered factory: those of these that it takes."""
        options = {
            "embedding_dim": self.embedding_dim,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "tied": self.tied,
            "init_std": self.init_std,
            "start_token": 0 if self.start_from_word_0 else None,
        }
        return accepted(generators[self.name], options)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The discriminator network."""

    name: str = "small_cnn"
    """A registered discriminator: paper_cnn, small_cnn, gru, causal_gru, transformer, likelihood_ratio, or an ensemble
    of one of them."""
    widths: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Filter widths of small_cnn."""
    filters: int = 64
    """Filters of each width of small_cnn."""
    embedding_dim: int = 64
    """Numbers per word of small_cnn, gru, causal_gru, likelihood_ratio and transformer (its width)."""
    pretrained_embedding: bool = False
    """Begin with the MLE's embedding of the words, rescaled, instead of random numbers; embedding_dim must be the
    generator's. likelihood_ratio: the MLE's output bias, the frequencies of the words, instead."""
    pool: Literal["max", "sum"] = "max"
    """Over positions, of small_cnn."""
    dropout: float = 0.25
    """Share of the features dropped in training; the authors keep 0.75."""
    token_dropout: float = 0.0
    """Share of the words hidden in training, of small_cnn."""
    highway: Literal["none", "biased", "unbiased"] = "none"
    """Highway layer: the 2017 program's has biases, the 2016 one's has none."""
    init_scale: float = 1.0
    """Multiplies the initial embedding and output weights of small_cnn; 1 is the authors'."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: tables and highway of the discriminator in half the bits; faster where the processor has bf16
    arithmetic, rewards within about 0.05."""
    spectral_norm: bool = False
    """Divide the weights by their spectral norms (Miyato et al. 2018)."""
    hidden_dim: int = 64
    """Units of each direction of gru, or of causal_gru, or of every model of likelihood_ratio."""
    num_layers: int = 2
    """Layers of transformer."""
    num_heads: int = 4
    """Attention heads of transformer; they divide embedding_dim."""
    member: str = "small_cnn"
    """Kind of the members of an ensemble."""
    size: int = 3
    """Members of an ensemble, or models of real sequences of likelihood_ratio."""

    def __post_init__(self) -> None:
        if not self.init_scale > 0:
            raise InputError(f"init_scale must be above 0, got {self.init_scale}")
        _ = discriminators[self.name]
        if self._kind == "ensemble":
            raise InputError("member must name a single discriminator, got 'ensemble'")
        if self.precision != "float32" and not accepted(discriminators[self._kind], {"precision": self.precision}):
            raise InputError(f"precision: the discriminator {self._kind!r} knows float32 only")

    @property
    def _kind(self) -> str:
        """The discriminator, or the kind of an ensemble's members."""
        return self.member if self.name == "ensemble" else self.name

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the registered factory: those of these that it takes."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        ensemble = {"member": options.pop("member"), "size": self.size}
        del options["name"], options["pretrained_embedding"]
        if self._kind == "paper_cnn":  # takes all, but has sizes of its own
            options = {name: options[name] for name in ("highway", "dropout", "precision", "spectral_norm")}
        options = accepted(discriminators[self._kind], options)
        return {**options, **ensemble} if self.name == "ensemble" else options


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """The agent: SeqGAN, or another algorithm in its place."""

    algorithm: str = "seqgan"
    """A registered algorithm: seqgan, rloo, grpo, actor_critic, ppo, a2c, dqn; trpo, qrdqn with sb3-contrib. Of the
    settings below, weights, baseline, normalize, loss, kl_coef and mle_coef are SeqGAN's alone."""
    options: Options = field(default_factory=dict)
    """Further arguments of the algorithm, such as n_epochs=10 clip_range=0.1 for ppo. They take the place of all that a
    preset or file gives."""
    learning_rate: float = 1e-3
    """Step size of the agent's own optimiser (its state is not the MLE's)."""
    batch_size: int = 64
    """B: sub-environments, all play at once. A round has T steps in each, so up to B sequences per update."""
    reward: str = "logit"
    """A registered reward of whole sequences, such as discriminator, logit, rankgan or bleu, or a formula of them:
    "0.5*discriminator + 0.5*bleu", "normalised(logit)"."""
    num_rollouts: int = 16
    """N of Eq. (4)."""
    rollouts: bool = True
    """Off: the reward of the whole sequence is the value of each of its tokens (REINFORCE). Agents with a replay buffer
    are paid at the end in any case: old Monte-Carlo values cannot be brought up to date."""
    weights: Literal["q", "advantage"] = "advantage"
    """Multiply log-probabilities with Q (the paper), or with Q less a baseline."""
    baseline: str = "rollout"
    """What is subtracted: rollout, position_mean, leave_one_out or learned; see docs/seqgan.md."""
    normalize: bool = True
    """Divide the weights by their root mean square."""
    loss: Literal["mean", "sum"] = "mean"
    """Over the batch; the authors' program sums."""
    max_grad_norm: float = 5.0
    """Global gradient norm limit; the share of updates that it cuts is logged."""
    ent_coef: float = 0.0
    """Weight of the mean entropy per token."""
    kl_coef: float = 0.0
    """Weight of the mean KL divergence from the MLE per token."""
    score_differences: bool = False
    """Of seqgan and actor_critic: pay every token by how much it adds to the reward's own score of the prefix, in place
    of rollouts (turn them off); for rewards that mean something at a prefix, as with the network likelihood_ratio.
    Other agents are paid as if this were off."""
    mle_coef: float = 0.0
    """Weight of the mean NLL per token of as many real training sequences as are played, in the loss of each update."""
    averaging: float = 0.0
    """Share of the old average kept at each round; the average of the weights over rounds is then what is evaluated
    and kept. 0 keeps the last weights, and so does an agent that is no generator (dqn, qrdqn)."""
    rollout_update_rate: float = 1.0
    """β <- β + rate * (θ - β) after each update; 1: the rollout policy is the generator itself."""

    def __post_init__(self) -> None:
        _ = algorithms[self.algorithm], rewards[self.reward]
        if self.algorithm in ("mle", "discriminator", *NAMED_CONTROLS):
            raise InputError(f"algorithm {self.algorithm!r} has the name of another stage; register it under another")
        self._check_options()
        if self.baseline not in BASELINES:
            raise InputError(f"baseline must be one of {', '.join(BASELINES)}; got {self.baseline!r}")
        ShapingOptions(num_rollouts=self.num_rollouts)
        if self.batch_size < 1 or not self.learning_rate > 0:
            raise InputError(
                f"batch_size and learning_rate must be above 0, got {self.batch_size}, {self.learning_rate}"
            )
        if not 0 <= self.mle_coef < math.inf:
            raise InputError(f"mle_coef must be a finite number of at least 0, got {self.mle_coef}")
        if not 0 <= self.averaging < 1:
            raise InputError(f"averaging must lie in [0, 1), got {self.averaging}")
        if not 0 < self.rollout_update_rate <= 1:
            raise InputError(f"rollout_update_rate must lie in (0, 1], got {self.rollout_update_rate}")

    def _check_options(self) -> None:
        """A dictionary that a run folder can keep; what is in it is checked by the algorithm."""
        try:
            is_kept = isinstance(self.options, dict) and json.loads(json.dumps(self.options)) == self.options
        except (TypeError, ValueError, RecursionError):
            is_kept = False
        if not is_kept:
            raise InputError(f"agent.options must be a mapping of names to plain values, got {self.options!r:.80}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How often and on how much the generator is scored; evaluation has random streams of its own."""

    every: int = 10
    """Rounds between two evaluations."""
    at: tuple[int, ...] = ()
    """Generated tokens at which to evaluate too: at the start of the first round that has so many."""
    samples: int = 2048
    """Sequences drawn for an evaluation during training."""
    sample_scores: bool = False
    """Score samples by BLEU and diversity too at every evaluation."""
    reward: str | None = None
    """Score samples by this reward too at every evaluation; one without a discriminator or a state, such as bleu."""
    final_samples: int = 4992
    """Sequences drawn for the final table."""
    max_nll_rise: float = 0.5
    """Stop the adversarial phase when the validation NLL has risen by so much over the MLE's, nats per token. Not for
    agents that are no generators."""

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("samples", 2), ("final_samples", 2)):
            if getattr(self, name) < least:
                raise InputError(f"evaluation: {name} must be at least {least}, got {getattr(self, name)}")
        if any(tokens < 1 for tokens in self.at):
            raise InputError(f"evaluation: at must hold numbers of tokens above 0, got {self.at}")
        if self.reward is not None and (rewards.needs_discriminator(self.reward) or self.reward == "random"):
            raise InputError(f"evaluation: reward must be one without a discriminator or a state, got {self.reward!r}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the numbers of a run."""

    preset: Annotated[str, tyro.conf.Suppress] = "quick"
    """Where the settings started from, with its version."""
    seed: int = 0
    """Seed of the run."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    mle: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The discriminator's network."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The discriminator's training."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    rounds: int = 100
    """Adversarial rounds: one collection of the algorithm and its update, then the discriminator's minibatches."""
    tokens: int = 0
    """Above 0: not so many rounds, but until the agent has generated so many tokens (and the reward has ``scored``)."""
    scored: int = 0
    """Above 0: not so many rounds, but until the reward has scored so many sequences, completions included (and
    ``tokens`` are generated)."""
    controls: tuple[str, ...] = ()
    """Controls run beside the agent, from the same start: mle_continued, constant, random, shuffled; and baselines,
    fitted to the same data from the start: scheduled_sampling, vae."""
    scheduled_sampling: ScheduledSamplingConfig = field(default_factory=ScheduledSamplingConfig)
    """The training of the baseline scheduled_sampling."""
    vae: VAEConfig = field(default_factory=VAEConfig)
    """The training of the baseline vae."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    device: str = "cpu"
    """"cpu" or "cuda"."""
    threads: int = 0
    """Threads of the arithmetic; 0 leaves torch's choice. Part of the numbers: sums are rounded in another order."""
    compile: bool = False
    """torch.compile the sampler; needs a C++ compiler. Part of the numbers: sums are rounded in another order."""

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise InputError(f"rounds must be at least 0, got {self.rounds}")
        if self.tokens < 0 or self.scored < 0:
            raise InputError(f"tokens and scored must be at least 0, got {self.tokens} and {self.scored}")
        if self.seed < 0 or self.threads < 0:
            raise InputError(f"seed and threads must be at least 0, got {self.seed} and {self.threads}")
        if self.threads > 1024:
            raise InputError(f"threads must be at most 1024, got {self.threads}")
        for control in self.controls:
            if control not in NAMED_CONTROLS:
                raise InputError(
                    f"unknown control {control!r}{did_you_mean(control, list(NAMED_CONTROLS))}; "
                    f"known are {', '.join(NAMED_CONTROLS)}"
                )

    @property
    def has_budget(self) -> bool:
        """Whether the adversarial phase ends by what has been used instead of by rounds."""
        return self.tokens > 0 or self.scored > 0


def _paper(preset: str, **agent: Any) -> RunConfig:
    """What both versions of the released code share: everything but the numbers that their table lists apart."""
    return RunConfig(
        preset=preset,
        generator=GeneratorConfig(start_from_word_0=True),
        mle=LikelihoodConfig(max_epochs=120, patience=0, shuffle=False, learning_rate=0.01),
        network=NetworkConfig(name="paper_cnn", highway="biased"),
        discriminator=DiscriminatorConfig(
            learning_rate=1e-4,
            weight_decay=0.0,
            batch_size=32,  # the authors' minibatch of 64 mixes real and generated ones
            pretrain_minibatches=46_800,
            minibatches_per_round=4_680,
            epochs_per_draw=3,
            draw_size=9_984,
        ),
        agent=AgentConfig(
            reward="discriminator",
            weights="q",
            normalize=False,
            loss="sum",
            num_rollouts=16,
            learning_rate=0.01,
            **agent,
        ),
        rounds=200,
        evaluation=EvaluationConfig(every=5, samples=9_984, final_samples=9_984, max_nll_rise=1e9),
    )


def _presets() -> dict[str, RunConfig]:
    repo2017 = _paper("repo2017/1")
    corrected = RunConfig(
        preset="corrected/2",
        mle=LikelihoodConfig(patience=3, decays=2, weight_decay=0.3, frequency_bias=True),
        scheduled_sampling=ScheduledSamplingConfig(patience=3, decays=2, weight_decay=0.3, frequency_bias=True),
        vae=VAEConfig(weight_decay=0.3, frequency_bias=True),
        network=NetworkConfig(
            name="likelihood_ratio", embedding_dim=32, hidden_dim=32, size=2, pretrained_embedding=True
        ),
        discriminator=DiscriminatorConfig(
            learning_rate=0.01, decay_to=0.05, weight_decay=0.3, pretrain_minibatches=3_000, check_every=400
        ),
        agent=AgentConfig(batch_size=256, rollouts=False, score_differences=True, averaging=0.9),
        rounds=150,
        evaluation=EvaluationConfig(every=25),
    )
    replace = dataclasses.replace
    return {
        "paper2016": replace(
            repo2017,
            preset="paper2016/1",
            mle=replace(repo2017.mle, learning_rate=0.001, max_epochs=240),
            network=replace(repo2017.network, highway="unbiased"),
            agent=replace(repo2017.agent, learning_rate=0.001),
            rounds=800,
        ),
        "repo2017": repo2017,
        "corrected": corrected,
        "quick": RunConfig(
            preset="quick/1",
            data=DataConfig(oracle="43", vocab_size=50),  # a peaked oracle; docs/results.md says how it was chosen
            generator=GeneratorConfig(hidden_dim=8),
            mle=LikelihoodConfig(learning_rate=0.01, max_epochs=40, patience=2, decays=2),
            discriminator=DiscriminatorConfig(pretrain_minibatches=3_000),
            agent=AgentConfig(averaging=0.9),
            rounds=60,
            controls=CONTROLS,
            threads=1,  # the networks are too small for more, and so the numbers are the same on any number of cores
        ),
        "text": RunConfig(
            preset="text/1",
            generator=GeneratorConfig(embedding_dim=64, hidden_dim=128),
            mle=LikelihoodConfig(learning_rate=0.005, max_epochs=12, patience=1, decays=2),
            network=NetworkConfig(
                widths=(1, 2, 3), embedding_dim=32, pool="sum", dropout=0.5, token_dropout=0.2, init_scale=0.3
            ),
            discriminator=DiscriminatorConfig(pretrain_minibatches=1_000, pretrain_patience=2, weight_decay=0.1),
            agent=AgentConfig(averaging=0.9),
            rounds=40,
            evaluation=EvaluationConfig(samples=1024),
        ),
    }


PRESETS: dict[str, RunConfig] = _presets()
"""``paper2016``: the 2016 program (240 epochs and updates at 0.001, highway without biases, 800 rounds);
``repo2017``: the released program (120 epochs and updates at 0.01, 200 rounds);
``corrected``: what we recommend at the paper's size (regularised MLE, a likelihood ratio as discriminator, tokens paid
by what they add to it);
``quick``: a small vocabulary with a capacity-limited generator, minutes on a laptop, all controls;
``text``: a larger generator, a regularised discriminator and rollouts, for a user's own corpus."""


def preset(name: str) -> RunConfig:
    """The settings of a preset. InputError for an unknown name."""
    if name not in PRESETS:
        known = list(PRESETS)
        raise InputError(f"unknown preset {name!r}{did_you_mean(str(name), known)}; known are {', '.join(known)}")
    return PRESETS[name]
