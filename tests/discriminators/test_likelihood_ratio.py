"""The likelihood ratio: its formula token by token, what each of its models is trained by, and how well it judges."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorTrainer,
    LikelihoodRatioDiscriminator,
    auc,
    take_embedding,
    train_discriminator,
)
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.transformer import TransformerGenerator

torch.set_num_threads(1)

A, T = 9, 7


def make(seed: int = 0, size: int = 3, spread: float = 8.0) -> LikelihoodRatioDiscriminator:
    """With weights so large that its models differ."""
    with torch_seeded(np.random.default_rng(seed)):
        network = LikelihoodRatioDiscriminator(A, T, embedding_dim=4, hidden_dim=5, size=size)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(spread)
    return network.eval()


def some_tokens(B: int, seed: int = 0) -> Tensor:
    """Token ids and PAD at the tail."""
    tokens_BT = torch.randint(A, (B, T), generator=torch.Generator().manual_seed(seed))
    lengths_B = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(seed + 1))
    return tokens_BT.masked_fill(torch.arange(T) >= lengths_B[:, None], A)


def test_the_logit_is_the_log_ratio_of_a_slow_loop() -> None:
    """One token at a time: the mean of the models' probabilities over that of the model of generated sequences."""
    network, tokens_BT = make(), some_tokens(12)
    models = [*network.models_of_real, network.generated]
    prefixes_BT = network.score_prefixes(tokens_BT)
    for b, row in enumerate(tokens_BT.tolist()):
        states, last, logit = [model.initial_state(1) for model in models], A, 0.0
        for t, token in enumerate(row[: row.index(A)] if A in row else row):
            probabilities = []
            for k, model in enumerate(models):
                logits_1A, states[k] = model.step(torch.tensor([last]), states[k])
                probabilities.append(float(logits_1A.detach().softmax(dim=1)[0, token]))
            logit += math.log(sum(probabilities[:-1]) / 3) - math.log(probabilities[-1])
            assert float(prefixes_BT[b, t]) == pytest.approx(logit, abs=1e-4)
            last = token
        assert float(network.score(tokens_BT[b : b + 1])) == pytest.approx(logit, abs=1e-4)
    default_BT = Discriminator.score_prefixes(network, tokens_BT)
    torch.testing.assert_close(torch.where(tokens_BT == A, 0.0, default_BT - prefixes_BT), torch.zeros(12, T))


def test_each_model_is_trained_by_the_likelihood_of_its_own_sequences() -> None:
    """Gradients of a minibatch: of -log p_k over real ones and -log q over generated ones, each alone."""
    network, real_BT, fake_BT = make(spread=1.0), some_tokens(16, seed=1), some_tokens(16, seed=2)
    twin = copy.deepcopy(network)
    trainer = DiscriminatorTrainer(network, real_BT, DiscriminatorConfig(weight_decay=0.0), np.random.default_rng(0))
    record = trainer._update(real_BT, fake_BT)
    own, before = [*network.models_of_real, network.generated], [*twin.models_of_real, twin.generated]
    for k, (model, alone) in enumerate(zip(own, before, strict=True)):
        tokens_BT, share = (real_BT, 1 / 3) if k < 3 else (fake_BT, 1.0)
        nll = -alone.log_prob(tokens_BT).sum() / (16 * T)
        expected = torch.autograd.grad(share * nll, list(alone.parameters()))
        for weight, gradient in zip(model.parameters(), expected, strict=True):
            assert weight.grad is not None
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-7)
    logits_B = twin(torch.cat([real_BT, fake_BT])).detach()
    wanted_B = torch.cat([torch.ones(16), torch.zeros(16)])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_B, wanted_B)
    assert record["loss"] == pytest.approx(float(loss), abs=1e-6), "what is logged is Eq. (5)"


def test_weight_decay_spares_the_biases_and_the_model_of_generated_sequences() -> None:
    network = make(spread=1.0)
    trainer = DiscriminatorTrainer(
        network, some_tokens(8), DiscriminatorConfig(learning_rate=1e-30, weight_decay=0.5e30), np.random.default_rng(0)
    )
    before = copy.deepcopy(network.state_dict())
    trainer.train(some_tokens(8, seed=3))
    for name, weight in network.state_dict().items():
        decays = name.startswith("real") and weight.dim() > 1
        torch.testing.assert_close(weight, before[name] * 0.5 if decays else before[name], msg=name)


def test_from_few_sequences_it_tells_apart_what_can_be_told() -> None:
    """Two oracles, 512 sequences of each: on held-out ones it ranks nearly as well as the true log-ratio."""
    oracles = [Oracle.from_seed(seed, vocab_size=20, sequence_length=8) for seed in (0, 1)]
    real_BT, fake_BT = (oracle.sample(1512, np.random.default_rng(5)) for oracle in oracles)
    with torch_seeded(np.random.default_rng(0)):
        network = LikelihoodRatioDiscriminator(20, 8, embedding_dim=8, hidden_dim=8)
    config = DiscriminatorConfig(learning_rate=0.01, weight_decay=0.3)
    trainer = DiscriminatorTrainer(network, real_BT[:512], config, np.random.default_rng(1))
    train_discriminator(trainer, lambda n: fake_BT[:512][:n], 240)
    found, best = (
        auc(*(score(part_BT[512:]) for part_BT in (real_BT, fake_BT)))
        for score in (
            network.score,
            lambda rows_BT: (oracles[0].log_prob(rows_BT) - oracles[1].log_prob(rows_BT)).sum(dim=1),
        )
    )
    assert best > 0.95
    assert found > best - 0.05


def test_it_resumes_to_the_same_bits() -> None:
    real_BT, fake_BT = some_tokens(40, seed=1), some_tokens(40, seed=2)
    config = DiscriminatorConfig(learning_rate=0.02, batch_size=16, weight_decay=0.3, replay_share=0.3)

    def trainer(seed: int) -> DiscriminatorTrainer:
        return DiscriminatorTrainer(make(seed, spread=1.0), real_BT, config, np.random.default_rng(seed))

    whole, first, second = trainer(0), trainer(0), trainer(1)
    records = [whole.train(fake_BT) for _ in range(2)]
    assert first.train(fake_BT) == records[0]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.train(fake_BT) == records[1]
    for name, weight in whole.discriminator.state_dict().items():
        assert torch.equal(second.discriminator.state_dict()[name], weight), name


def mle_of(**options: Any) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(3)):
        return LSTMGenerator(A, T, True, **{"embedding_dim": 4, "hidden_dim": 5, "init_std": 0.5} | options)


def test_it_follows_a_generator_of_its_sizes_exactly() -> None:
    """q is then that generator, whatever it is trained on; p is trained as ever."""
    network, mle, tokens_BT = make(spread=1.0), mle_of(), some_tokens(6)
    network.follow(mle)
    before = copy.deepcopy(network.state_dict())
    config = DiscriminatorConfig(learning_rate=0.05, weight_decay=0.3)
    DiscriminatorTrainer(network, some_tokens(16), config, np.random.default_rng(0)).train(some_tokens(16, seed=3))
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name]) == (not name.startswith("real")), name
    assert torch.equal(network.generated.log_prob(tokens_BT), mle.log_prob(tokens_BT))
    twin = make(1)
    twin.load_state_dict(network.state_dict())
    assert twin.is_following, "a checkpoint knows"
    mle.output_bias.data.add_(torch.arange(A))
    assert not torch.equal(network.generated.log_prob(tokens_BT), mle.log_prob(tokens_BT)), "a copy"
    network.follow(mle)
    assert torch.equal(network.generated.log_prob(tokens_BT), mle.log_prob(tokens_BT))


@pytest.mark.parametrize(
    "generator",
    [mle_of(hidden_dim=6), mle_of(start_token=0), TransformerGenerator(A, T, hidden_dim=4)],
    ids=["other size", "start token", "transformer"],
)
def test_another_generator_is_learned_from_its_sequences(generator: Any) -> None:
    network = make(spread=1.0)
    network.follow(generator)
    before = copy.deepcopy(network.generated.state_dict())
    DiscriminatorTrainer(network, some_tokens(8), DiscriminatorConfig(), np.random.default_rng(0)).train(some_tokens(8))
    assert not any(torch.equal(weight, before[name]) for name, weight in network.generated.state_dict().items())


def test_words_are_as_frequent_in_p_as_in_the_mle_from_the_start() -> None:
    network, mle = make(), mle_of()
    before = copy.deepcopy(network.state_dict())
    take_embedding(network, mle)
    for name, weight in network.state_dict().items():
        is_taken = name.startswith("real") and name.endswith("output_bias")
        assert torch.equal(weight, mle.output_bias if is_taken else before[name]), name
    mle.output_bias = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(
        InputError, match="pretrained_embedding: a likelihood_ratio takes the generator's `output_bias`"
    ):
        take_embedding(network, mle)


def test_what_it_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1 model of real sequences, got 0"):
        LikelihoodRatioDiscriminator(A, T, size=0)
    for config, name in (
        (DiscriminatorConfig(label_smoothing=0.1), "label_smoothing"),
        (DiscriminatorConfig(gradient_penalty=0.1), "gradient_penalty"),
    ):
        with pytest.raises(InputError, match=f"{name} is of training by cross-entropy"):
            DiscriminatorTrainer(make(), some_tokens(4), config, np.random.default_rng(0))
