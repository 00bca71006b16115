"""What a run can be asked for by name: rewards and formulas, algorithms of whole sequences, networks, baselines, and a
verdict that says when training was stopped."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from seqgan_rl.adversarial import results, session, trainer
from seqgan_rl.adversarial.agent import make_agent
from seqgan_rl.adversarial.config import GeneratorConfig, NetworkConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.results import evaluate_run, load_run, sample
from seqgan_rl.adversarial.run_folder import RunFolder
from seqgan_rl.adversarial.trainer import train
from seqgan_rl.agents.actor_critic import ActorCritic
from seqgan_rl.agents.grpo import GRPO
from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.agents.rloo import RLOO
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.core.checkpoint import load_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import (
    CausalGRUDiscriminator,
    DiscriminatorTrainer,
    EnsembleDiscriminator,
    GRUDiscriminator,
    LikelihoodRatioDiscriminator,
    TransformerDiscriminator,
    discriminators,
    take_embedding,
)
from seqgan_rl.evaluation import Scores
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import generators
from seqgan_rl.models.likelihood import nll_per_token
from seqgan_rl.models.scheduled_sampling import ScheduledSamplingTrainer
from seqgan_rl.models.transformer import TransformerGenerator
from seqgan_rl.models.vae import SequenceVAE, VAETrainer
from seqgan_rl.rewards import BLEUReward, MixtureReward, NormalisedReward, RankGANReward
from seqgan_rl.rewards.controls import ConstantReward
from tests.adversarial.test_trainer import ROOT, lines, numbers, train_until

SHORT: dict[str, Any] = {"controls": [], "rounds": 3}


def assert_same_run(a, b, *models) -> None:
    """Metrics, results and the weights of these models."""
    assert lines(a) == lines(b)
    assert (a / "results.json").read_text() == (b / "results.json").read_text()
    for model in models:
        left, right = (load_state(run / model)["weights"] for run in (a, b))
        assert list(left) == list(right)
        assert all(torch.equal(left[key], right[key]) for key in left)


def assert_documented(run) -> None:
    """Every metric of the run but SB3's own has its place in docs/metrics.md."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+)`", page))
    keys = {key for row in numbers(run) for key in row if "/" in key and not key.startswith(("train/", "rollout/"))}
    assert {key for key in keys if key not in named and key.split("/")[1] not in named} == set()


# --- rewards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rankgan", RankGANReward),
        ("bleu2", BLEUReward),
        ("0.5*discriminator + 0.5*bleu", MixtureReward),
        ("normalised(logit)", NormalisedReward),
    ],
)
def test_a_reward_or_formula_pays_the_agent(tiny, tmp_path, monkeypatch, name, kind):
    paying: list[Any] = []

    def noted(config: Any, data: Any, reward: Any, *rest: Any) -> Any:
        paying.append(reward)
        return make_agent(config, data, reward, *rest)

    monkeypatch.setattr(trainer, "make_agent", noted)
    train(tiny(controls=[], rounds=1, agent={"reward": name}), tmp_path / "run", progress=False)
    assert type(paying[-1]) is kind


def test_a_reward_with_references_and_a_running_scale_resumes_to_the_same_bytes(tiny, tmp_path, monkeypatch):
    config = tiny(**SHORT, agent={"reward": "0.1*constant + normalised(rankgan)"})
    train(config, tmp_path / "whole", progress=False)
    train_until(monkeypatch, SeqGAN, "train", 2, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "run", "generator", "discriminator")


def test_bleu_as_reward_is_that_of_the_training_sequences(tiny, tmp_path):
    """PG-BLEU is paid by the run's own training split, and its discriminator is never retrained."""
    train(tiny(**SHORT, agent={"reward": "bleu"}), tmp_path / "run", progress=False)
    real_BT = RunData.load(RunFolder(tmp_path / "run")).split("train")
    env_reward = BLEUReward(real_BT)
    assert env_reward.score(real_BT[:4], torch.full((4,), 6)).tolist() == pytest.approx([1.0] * 4)
    rows = [row for row in numbers(tmp_path / "run") if row["agent"] == "seqgan"]
    assert not any("discriminator/loss" in row for row in rows)
    played = [row for row in rows if "agent/reward" in row]
    assert len(played) == 3
    assert all(0 < row["agent/reward"] < 1 for row in played)
    for row in played:  # all sequences have T tokens: the last action value is the reward
        assert row["agent/value_last"] == pytest.approx(row["agent/reward"], abs=1e-6)
        assert all(0 < row[f"agent/value_{place}"] < 1 for place in ("first", "middle"))
        assert row["agent/weight_p5"] <= 0 <= row["agent/weight_p95"]
    checks = [row["discriminator/held_out_calibration"] for row in rows if "discriminator/auc" in row]
    assert checks
    assert all(0 <= error <= 1 for error in checks)
    assert_documented(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agent": {"reward": "0.5*logits"}}, "unknown reward 'logits'"),
        ({"agent": {"reward": "0.5*logit +"}}, "is no reward"),
        ({"agent": {"reward": "squared(logit)"}}, "unknown wrapper of rewards 'squared'"),
        ({"agent": {"reward": "0.5*rank + 0.5*bleu"}}, "RankReward acts on whole batches"),
        ({"agent": {"reward": "rank", "batch_size": 1}}, "RankReward sets each sequence against the others"),
        ({"agent": {"reward": "maligan"}, "text": True}, "end by EOS"),
        ({"agent": {"algorithm": "rloo", "kl_coef": 0.1}}, "RLOO does not have kl_coef"),
        ({"agent": {"algorithm": "grpo", "mle_coef": 0.1}}, "GRPO does not have mle_coef"),
        ({"agent": {"mle_coef": -0.1}}, "mle_coef must be a finite number of at least 0, got -0.1"),
        ({"agent": {"algorithm": "grpo", "options": {"beta": -1}}}, "beta must be a finite number of at least 0"),
        ({"agent": {"algorithm": "actor_critic", "options": {"gamma": 1}}}, "gamma"),
        ({"agent": {"algorithm": "rloo", "options": {"betas": 1}}}, "did you mean 'beta'"),
        ({"generator": {"name": "transformer", "num_heads": 3}}, "hidden_dim must be a multiple of num_heads"),
        ({"generator": {"name": "vae"}}, "a VAE is no policy"),
        ({"network": {"name": "ensemble", "member": "ensemble"}}, "member must name a single discriminator"),
        ({"network": {"name": "ensemble", "member": "cnn"}}, "unknown discriminator 'cnn'"),
        ({"network": {"name": "gru", "precision": "bfloat16"}}, "'gru' knows float32 only"),
        ({"network": {"name": "ensemble", "size": 0}}, "size must be at least 1 member"),
        (
            {"network": {"pretrained_embedding": True, "embedding_dim": 5}},
            r"5 numbers a word and the generator 4; make network\.embedding_dim and generator\.embedding_dim",
        ),
        ({"network": {"pretrained_embedding": True, "name": "paper_cnn"}}, "64 numbers a word and the generator 4"),
        ({"controls": ["vea"]}, "did you mean 'vae'"),
        ({"scheduled_sampling": {"schedule": "cosine"}}, "schedule must be one of inverse_sigmoid"),
        ({"vae": {"word_dropout": 2}}, "word_dropout must lie in"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(tiny, tmp_path, text_file, changes, words):
    changes = {**SHORT, **changes}
    if changes.pop("text", False):
        changes["data"] = {"corpus": str(text_file), "min_count": 3, "sequence_length": None}
    with pytest.raises((InputError, ValueError), match=words) as caught:
        train(tiny(**changes), tmp_path / "run", progress=False)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


# --- algorithms of whole sequences ------------------------------------------------------------------------------

WHOLE: dict[str, tuple[type[SeqGAN], dict[str, Any]]] = {
    "rloo": (RLOO, {"beta": 0.1}),
    "grpo": (GRPO, {"n_epochs": 2, "beta": 0.1}),
    "actor_critic": (ActorCritic, {"critic_warmup": 1, "actor_update_rate": 0.5}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_algorithm_of_whole_sequences_resumes_to_the_same_bytes(tiny, tmp_path, monkeypatch, name):
    """Interrupted in the third of four updates, with the MLE as its reference before and after."""
    kind, options = WHOLE[name]
    config = tiny(controls=["constant"], agent={"algorithm": name, "options": options})
    result = train(config, tmp_path / "whole", progress=False)
    assert result.rows[-2].name == results.NAMES[name]
    assert results.NAMES[name] in result.verdict
    train_until(monkeypatch, kind, "train", 3, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "run", "generator", "controls/constant")
    start, end = (load_state(tmp_path / "run" / model)["weights"] for model in ("mle", "generator"))
    assert not all(torch.equal(start[key], end[key]) for key in start)
    assert_documented(tmp_path / "run")


@pytest.mark.parametrize("name", WHOLE)
def test_its_options_and_start_reach_the_algorithm(tiny, tmp_path, name):
    kind, options = WHOLE[name]
    config = tiny(**SHORT, agent={"algorithm": name, "options": options, "learning_rate": 0.01})
    train(tiny(controls=[], rounds=0), tmp_path / "run", progress=False)
    mle: Any = load_model(tmp_path / "run" / "mle", generators)
    agent: Any = make_agent(config, RunData.load(RunFolder(tmp_path / "run")), ConstantReward(), mle, "test")
    assert type(agent).__name__ == kind.__name__
    assert {key: getattr(agent, key) for key in options} == options
    assert agent.learning_rate == 0.01
    assert agent.reference is mle
    assert agent.get_env().get_attr("shaping")[0] == "none"
    assert torch.equal(agent.policy.generator.embedding, mle.embedding)


def test_trpo_with_forbidden_words_learns_and_never_plays_them(tiny, tmp_path, text_file):
    """Its policy is the plain one: the gradient of the KL is a number, and UNK has probability 0 to the last bit."""
    pytest.importorskip("sb3_contrib")
    data = {"corpus": str(text_file), "min_count": 3, "sequence_length": None}
    train(tiny(**SHORT, data=data, agent={"algorithm": "trpo"}), tmp_path / "run", progress=False)
    rows = [row for row in numbers(tmp_path / "run") if row["agent"] == "trpo" and "train/kl_divergence_loss" in row]
    assert len(rows) == 3
    assert all(math.isfinite(row["train/kl_divergence_loss"]) for row in rows)
    assert any(row["train/is_line_search_success"] for row in rows)
    config, data_of_run = RunFolder(tmp_path / "run").config(), RunData.load(RunFolder(tmp_path / "run"))
    mle: Any = load_model(tmp_path / "run" / "mle", generators)
    agent: Any = make_agent(config, data_of_run, ConstantReward(), mle, "test")
    assert type(agent.policy).__name__ == GeneratorPolicy.__name__
    unk, obs_BT = data_of_run.forbidden[0], torch.tensor(data_of_run.corpus.train.tokens_NT[:4])
    obs_BT[:, 2:] = mle.pad_id
    distribution = agent.policy.get_distribution(obs_BT).distribution
    assert (distribution.probs[:, unk] == 0).all()
    assert torch.isfinite(distribution.logits).all()
    expected_BA = mle.next_logits(obs_BT, torch.full((4,), 2))[0].index_fill(1, torch.tensor([unk]), -math.inf)
    assert torch.equal(distribution.probs, torch.distributions.Categorical(logits=expected_BA).probs)
    kl = torch.distributions.kl_divergence(distribution, torch.distributions.Categorical(logits=distribution.logits))
    (gradient,) = torch.autograd.grad(kl.sum(), agent.policy.generator.output_weight)
    assert torch.isfinite(gradient).all()


def test_likelihood_is_mixed_in_of_the_runs_training_sequences(tiny, tmp_path):
    """And of no others: the data of the seqgan and its controls are the train split; the first loss is the MLE's."""
    config = tiny(**{**SHORT, "controls": ["shuffled"]}, agent={"mle_coef": 0.5, "batch_size": 64})
    train(config, tmp_path / "run", progress=False)
    rows = [row for row in numbers(tmp_path / "run") if "agent/mle_loss" in row]
    assert [(row["agent"], row["round"]) for row in rows] == [(n, k) for n in ("seqgan", "shuffled") for k in (1, 2, 3)]
    data, mle = RunData.load(RunFolder(tmp_path / "run")), load_model(tmp_path / "run" / "mle", generators)
    agent: Any = make_agent(config, data, ConstantReward(), mle, "seqgan")
    assert torch.equal(agent.real, data.split("train"))
    assert agent.mle_coef == 0.5
    first_BT = agent.real[stream(config.seed, "seqgan real").integers(len(agent.real), size=64)]
    assert rows[0]["agent/mle_loss"] == pytest.approx(nll_per_token(mle, first_BT), abs=1e-5)
    assert rows[0]["agent/mle_loss"] != rows[3]["agent/mle_loss"]  # each stage draws its own
    assert_documented(tmp_path / "run")


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "kind", "has"),
    [
        ({"name": "gru", "hidden_dim": 5, "spectral_norm": True}, GRUDiscriminator, {"hidden_dim": 5}),
        (
            {"name": "causal_gru", "hidden_dim": 5, "pretrained_embedding": True},
            CausalGRUDiscriminator,
            {"hidden_dim": 5},
        ),
        ({"name": "transformer", "num_layers": 1, "num_heads": 2}, TransformerDiscriminator, {"num_layers": 1}),
        (
            {"name": "likelihood_ratio", "size": 1, "hidden_dim": 3},
            LikelihoodRatioDiscriminator,
            {"size": 1, "hidden_dim": 3},
        ),
        ({"name": "ensemble", "member": "gru", "size": 2}, EnsembleDiscriminator, {"member": "gru", "size": 2}),
        ({"name": "ensemble", "member": "paper_cnn", "size": 2}, EnsembleDiscriminator, {"highway": "none"}),
    ],
)
def test_the_discriminators_settings_reach_it(network, kind, has):
    config = NetworkConfig(embedding_dim=4, **network)
    found = discriminators[config.name](20, 6, **config.options)
    assert type(found) is kind
    assert {key: found.config[key] for key in has} == has
    paper = network.get("member") == "paper_cnn"
    assert ("embedding_dim" in config.options) != paper  # the paper's network has sizes of its own


def test_the_transformers_settings_reach_it():
    config = GeneratorConfig(name="transformer", hidden_dim=8, num_layers=3, num_heads=2, tied=True)
    generator = generators[config.name](20, 6, False, **config.options)
    assert isinstance(generator, TransformerGenerator)
    assert {key: generator.config[key] for key in ("hidden_dim", "num_layers", "num_heads", "tied")} == {
        "hidden_dim": 8,
        "num_layers": 3,
        "num_heads": 2,
        "tied": True,
    }
    assert "num_layers" not in GeneratorConfig().options


def test_a_run_of_a_likelihood_ratio_resumes_to_the_same_bytes(tiny, tmp_path, monkeypatch):
    """Paid by differences of scores, which count as evaluations; the control shuffled is paid by its own."""
    config = tiny(
        **{**SHORT, "controls": ["shuffled"]},
        network={"name": "likelihood_ratio", "embedding_dim": 4, "hidden_dim": 4, "pretrained_embedding": True},
        generator={"embedding_dim": 4, "hidden_dim": 4},
        agent={"score_differences": True, "rollouts": False},
    )
    train(config, tmp_path / "whole", progress=False)
    train_until(monkeypatch, SeqGAN, "train", 2, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "run", "generator", "discriminator")
    rows = [row for row in numbers(tmp_path / "run") if "evaluations" in row]
    assert {row["agent"] for row in rows} == {"seqgan", "shuffled"}
    assert all(row["evaluations"] == row["tokens"] for row in rows), "T prefixes of each sequence of T tokens"
    assert_documented(tmp_path / "run")


def test_a_run_of_other_networks_resumes_to_the_same_bytes(tiny, tmp_path, monkeypatch):
    network = {"name": "ensemble", "member": "gru", "size": 2, "hidden_dim": 4, "spectral_norm": True}
    config = tiny(
        **SHORT,
        generator={"name": "transformer", "num_heads": 2},
        network=network,
        discriminator={"label_smoothing": 0.1, "gradient_penalty": 1.0, "replay_share": 0.5},
    )
    train(config, tmp_path / "whole", progress=False)
    train_until(monkeypatch, SeqGAN, "train", 2, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "run", "generator", "discriminator")
    rows = [row for row in numbers(tmp_path / "run") if "discriminator/squared_gradient" in row]
    assert all(row["discriminator/squared_gradient"] >= 0 for row in rows)
    assert {row["agent"] for row in rows} == {"discriminator", "seqgan"}
    assert_documented(tmp_path / "run")


@pytest.mark.parametrize(
    ("network", "generator"),
    [
        ({"name": "causal_gru", "hidden_dim": 4}, {}),
        ({"name": "ensemble", "size": 2}, {"name": "transformer", "num_heads": 2}),
    ],
)
def test_a_discriminator_with_the_mles_embedding_resumes_to_the_same_bytes(
    tiny, tmp_path, monkeypatch, network, generator
):
    """Interrupted in its pretraining and in the agent's: its words are taken once, when it is new, and then trained."""
    taken: list[Any] = []

    def noted(discriminator: Any, mle: Any) -> None:
        take_embedding(discriminator, mle)
        taken.append([w.clone() for name, w in discriminator.state_dict().items() if name.endswith("embedding")])

    monkeypatch.setattr(trainer, "take_embedding", noted)
    config = tiny(**SHORT, network={"pretrained_embedding": True, **network}, generator=generator)
    train(config, tmp_path / "whole", progress=False)
    mle: Any = load_model(tmp_path / "whole" / "mle", generators)
    assert len(taken) == 2  # the check of the parts, and the discriminator of the run
    for table in taken[-1]:
        scale = table[:20].std(correction=0) / mle.embedding[:20].std(correction=0)
        torch.testing.assert_close(table[:20], (mle.embedding[:20] * scale).detach())
    trained = load_state(tmp_path / "whole" / "discriminator")["weights"]
    ends = [weight for name, weight in trained.items() if name.endswith("embedding")]
    assert not any(torch.equal(end, start) for end, start in zip(ends, taken[-1], strict=True))
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    train_until(monkeypatch, DiscriminatorTrainer, "_update", 6, config, tmp_path / "run")
    train_until(monkeypatch, SeqGAN, "train", 2, config, tmp_path / "run", resume=True)
    assert len(taken) == 2 + 2 + 1  # each process checks the parts; only the first began the discriminator
    train(config, tmp_path / "run", resume=True, progress=False)
    assert len(taken) == 6
    assert_same_run(tmp_path / "whole", tmp_path / "run", "generator", "discriminator")


# --- baselines --------------------------------------------------------------------------------------------------

FITS = ("scheduled_sampling", "vae")


@pytest.fixture(scope="module")
def fitted(tiny, tmp_path_factory):
    """A run with both baselines."""
    config = tiny(
        controls=list(FITS),
        rounds=1,
        scheduled_sampling={"max_epochs": 3, "k": 2.0},
        vae={"max_epochs": 3, "annealing_minibatches": 4},
    )
    run = tmp_path_factory.mktemp("fits") / "run"
    return config, run, train(config, run, progress=False)


def test_baselines_are_fitted_scored_sampled_and_swept(fitted):
    config, run, result = fitted
    assert_documented(run)
    assert [row.name for row in result.rows][-2:] == ["Scheduled sampling", "VAE"]
    assert isinstance(load_run(run, "vae")[2], SequenceVAE)
    rows = {name: [row for row in numbers(run) if row["agent"] == name and "mle/valid_nll" in row] for name in FITS}
    rates = [row["mle/truth_rate"] for row in rows["scheduled_sampling"]]
    assert rates == [pytest.approx(config.scheduled_sampling.truth_rate(2 * epoch)) for epoch in (1, 2, 3)]
    assert [row["mle/kl_weight"] for row in rows["vae"]] == [0.5, 1.0, 1.0]
    assert all(len(sample(run, 3, model=name)) == 3 for name in FITS)
    with pytest.raises(InputError, match="a VAE continues no prompt"):
        sample(run, 1, model="vae", prompt="1 2")
    scores = evaluate_run(run, n_samples=64)
    assert scores.scores("VAE").conditional_js is None  # it has no next-token distribution
    assert scores.scores("Scheduled sampling").conditional_js is not None


@pytest.mark.parametrize(("owner", "at"), [(ScheduledSamplingTrainer, 4), (VAETrainer, 4)])
def test_a_baseline_interrupted_in_its_fit_resumes_to_the_same_bytes(fitted, tmp_path, monkeypatch, owner, at):
    """In the second minibatch of its second epoch."""
    config, run, _ = fitted
    train_until(monkeypatch, owner, "loss", at, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(run, tmp_path / "run", *(f"controls/{name}" for name in FITS))


# --- the end ----------------------------------------------------------------------------------------------------


def test_a_stopped_run_says_so_in_its_verdict_also_after_a_resume_and_its_results_are_strict_json(
    tiny, tmp_path, monkeypatch
):
    """A learning rate of 1e30 gives finite weights and an NLL of 1e29 nats, at which the guard stops."""
    config = tiny(controls=["mle_continued"], agent={"learning_rate": 1e30})
    result = train(config, tmp_path / "whole", progress=False)
    assert result.verdict.startswith("SeqGAN was stopped early, at round 2 of 4: validation NLL has risen by ")
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    train_until(monkeypatch, trainer, "write_results", 1, config, tmp_path / "run")
    again = train(config, tmp_path / "run", resume=True, progress=False)
    assert again.verdict == result.verdict

    def refuse(word):
        raise ValueError(word)

    document = json.loads((tmp_path / "run" / "results.json").read_text(), parse_constant=refuse)
    assert document["verdict"] == result.verdict
    assert list(document["stopped"]) == ["SeqGAN"]
    assert (tmp_path / "run" / "results.md").read_text().rstrip().endswith(result.verdict)


def test_what_is_not_finite_is_read_back_from_results(tiny, tmp_path, monkeypatch):
    """A model that cannot write some test sequence has an infinite NLL_test: "inf" in the file, infinite again when
    read."""
    from seqgan_rl.evaluation import Evaluator

    real = Evaluator.scores

    def infinite(self, generator, **options):
        import dataclasses

        errors = {"nll_test": np.nan}
        return dataclasses.replace(real(self, generator, **options), nll_test=math.inf, standard_errors=errors)

    train(tiny(controls=[], rounds=0), tmp_path / "run", progress=False)
    monkeypatch.setattr(Evaluator, "scores", infinite)
    evaluation = evaluate_run(tmp_path / "run", n_samples=16)
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    row = json.loads(text)["rows"][0]["scores"]
    assert (row["nll_test"], row["standard_errors"]["nll_test"]) == ("inf", "nan")
    read = Scores.from_json(row)
    assert math.isinf(read.nll_test)
    assert math.isnan(read.standard_errors["nll_test"])
    assert read.signature == evaluation.scores("oracle entropy").signature
