"""What people wrap around the environments: other observations, prompts, constraint masks, a KL penalty.

The last three set something in the environment itself, so the same is had without a wrapper in the native vector
environment (``env.unwrapped.set_prompts(...)``) and through Stable-Baselines3 (``env.env_method("set_prompts", ...)``);
observations are an argument there (``observation="last_token"``).
Letters: B prefixes, T tokens each, A actions.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.envs.environment import SequenceEnv
from seqgan_rl.envs.holder import Constraint
from seqgan_rl.envs.observations import encode, observation_space, pick_row
from seqgan_rl.models.decoding import RolloutPolicy
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.sampling import PLAIN, SamplingOptions


def _sequence_env(env: gym.Env[Any, Any]) -> SequenceEnv:
    inner = env.unwrapped
    if not isinstance(inner, SequenceEnv):
        raise TypeError(
            f"this wrapper takes a single environment of seqgan_rl, got {type(inner).__name__}; a vector environment "
            "has set_prompts, set_constraint and set_penalty, and the argument `observation`"
        )
    return inner


class _Observed(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """The prefix as one of the kinds of :mod:`seqgan_rl.envs.observations`."""

    kind: str

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.inner = _sequence_env(env)
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = observation_space(self.kind, self.inner.task)

    def observation(self, observation: Any) -> Any:
        """Encoded anew from the prefix, whatever the wrapped environment shows."""
        tokens_BT, lengths_B = self.inner.episodes.tokens_BT, self.inner.episodes.lengths_B
        return pick_row(encode(self.kind, self.inner.task, tokens_BT, lengths_B, self.inner.masks), 0)


class LastTokenObservation(_Observed):
    """Only the last token, ``Discrete(A + 1)``, PAD before the first: for recurrent agents."""

    kind = "last_token"


class OneHotObservation(_Observed):
    """The prefix as one-hot rows, ``Box(0, 1, (T * A,), float32)``, PAD all zeros: for agents without embeddings."""

    kind = "onehot"


class MaskedDictObservation(_Observed):
    """``{"tokens", "action_mask"}``: for agents that read the mask from the observation (TorchRL, RLlib, Tianshou)."""

    kind = "dict"


class PromptSampling(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Starts every sequence with a prompt drawn from some, by the environment's own generator.

    Args:
        env: a single environment of this library.
        prompts: lists of word ids shorter than T; or an int k: the first k words of each training line of the corpus
            that is longer than that.
    """

    def __init__(self, env: gym.Env[Any, Any], prompts: Iterable[Any] | int) -> None:
        inner = _sequence_env(env)
        RecordConstructorArgs.__init__(self, prompts=prompts)
        super().__init__(env)
        inner.set_prompts(corpus_prompts(inner, prompts) if isinstance(prompts, int) else prompts)


def corpus_prompts(env: Any, length: int) -> list[list[int]]:
    """The first ``length`` words of the training lines of the environment's corpus that are longer than that; for
    ``set_prompts``. ValueError if there is no corpus or no such line."""
    corpus = env.task.corpus
    if corpus is None:
        raise ValueError("prompts of a given length are taken from a corpus, and this environment has none; give lists")
    heads_NL = corpus.train.tokens_NT[:, : length + 1]
    prompts: list[list[int]] = heads_NL[(heads_NL < env.task.vocab_size).all(axis=1), :length].tolist()
    if not prompts or not 1 <= length < env.task.sequence_length:
        raise ValueError(f"a prompt of {length} words leaves nothing to write: no training line has more")
    return prompts


class NGramConstraint(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The action mask allows only what follows the last n - 1 tokens somewhere in the training corpus.

    Args:
        env: a single environment of this library.
        n: order.
        sequences_NT: where n-grams are counted, int (N, T) with PAD after the end; None: the training corpus.
    """

    def __init__(self, env: gym.Env[Any, Any], n: int = 2, sequences_NT: NDArray[np.int64] | None = None) -> None:
        inner = _sequence_env(env)
        RecordConstructorArgs.__init__(self, n=n, sequences_NT=sequences_NT)
        super().__init__(env)
        if sequences_NT is None:
            sequences_NT = inner.real_sequences()
        inner.set_constraint(all_of(inner.constraint, known_ngrams(sequences_NT, n, inner.task.num_actions)))


class RepetitionConstraint(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The action mask forbids whatever would repeat an n-gram of the prefix; n = 1 forbids every repeated word."""

    def __init__(self, env: gym.Env[Any, Any], n: int = 1) -> None:
        inner = _sequence_env(env)
        RecordConstructorArgs.__init__(self, n=n)
        super().__init__(env)
        inner.set_constraint(all_of(inner.constraint, no_repeated_ngrams(n, inner.task.num_actions)))


class KLPenalty(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Subtracts beta * (log π(a|s) - log π_ref(a|s)) from every reward, see :class:`KLToReference`."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        reference: RolloutPolicy,
        policy: RolloutPolicy | None = None,
        beta: float = 0.1,
        options: SamplingOptions = PLAIN,
    ) -> None:
        inner = _sequence_env(env)
        RecordConstructorArgs.__init__(
            self, _disable_deepcopy=True, reference=reference, policy=policy, beta=beta, options=options
        )
        super().__init__(env)
        inner.set_penalty(KLToReference(reference, policy, beta, options))


def all_of(*constraints: Constraint | None) -> Constraint:
    """A constraint: whatever all of these allow."""
    rules = [constraint for constraint in constraints if constraint is not None]

    def allowed(tokens_BT: NDArray[np.int64], lengths_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.logical_and.reduce([rule(tokens_BT, lengths_B) for rule in rules])

    return allowed


def known_ngrams(sequences_NT: NDArray[np.int64], n: int, num_actions: int) -> Constraint:
    """A constraint: what follows the last n - 1 tokens (fewer where those were never seen) in some sequences, their
    ends (EOS) and starts counted."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    for row in np.asarray(sequences_NT).tolist():
        tokens = [num_actions] * (n - 1) + [token for token in row if token != num_actions]
        for end in range(n - 1, len(tokens)):
            for start in range(end - n + 1, end + 1):
                followers[tuple(tokens[start:end])].add(tokens[end])

    def allowed(tokens_BT: NDArray[np.int64], lengths_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed_BA = np.zeros((len(tokens_BT), num_actions), dtype=np.bool_)
        for row, (tokens, length) in enumerate(zip(tokens_BT.tolist(), lengths_B.tolist(), strict=True)):
            context = tuple(([num_actions] * (n - 1) + tokens[:length])[length:])
            while context not in followers and context:
                context = context[1:]
            allowed_BA[row, list(followers.get(context, ()))] = True
        return allowed_BA

    return allowed


def no_repeated_ngrams(n: int, num_actions: int) -> Constraint:
    """A constraint: nothing that would make the last n tokens stand in the sequence twice."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")

    def allowed(tokens_BT: NDArray[np.int64], lengths_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed_BA = np.ones((len(tokens_BT), num_actions + 1), dtype=np.bool_)  # and PAD, which is cut off
        rows_B, T = np.arange(len(tokens_BT)), tokens_BT.shape[1]
        last = np.clip(lengths_B[:, None] - np.arange(n - 1, 0, -1), 0, T - 1)
        context = np.take_along_axis(tokens_BT, last, axis=1)  # (B, n - 1)
        for end in range(n - 1, T):  # the n-gram that ends at `end` is in the prefix
            is_same_B = (tokens_BT[:, end - n + 1 : end] == context).all(axis=1) & (end < lengths_B)
            allowed_BA[rows_B[is_same_B], tokens_BT[is_same_B, end]] = False
        return allowed_BA[:, :-1]

    return allowed


class KLToReference:
    """The penalty of RLHF: beta * (log π(a|s) - log π_ref(a|s)) for every action, whose sum over a sequence has the
    expectation beta * KL(π || π_ref) (Ziegler et al. 2019, arXiv:1909.08593, Eq. 2). For ``set_penalty``.

    Args:
        reference: π_ref, such as the MLE generator; it must not change.
        policy: π, the live agent: its generator, or ``ModelPolicy(model)``. None leaves log π out: the cross-entropy
            with the reference, which with an entropy bonus of beta in the agent is the same objective.
        beta: its weight, in reward per nat.
        options: how both distributions are reshaped; for an agent that obeys the action mask
            ``env.unwrapped.task.rollout_options``, since it never plays what is forbidden.

    Calling it takes prefixes (B, T), lengths (B,) and actions (B,) and returns float64 (B,); ValueError for an action
    that the options rule out.
    """

    def __init__(
        self,
        reference: RolloutPolicy,
        policy: RolloutPolicy | None = None,
        beta: float = 0.1,
        options: SamplingOptions = PLAIN,
    ) -> None:
        if not beta >= 0:
            raise ValueError(f"beta must be at least 0, got {beta}")
        self.reference, self.policy, self.beta, self.options = reference, policy, beta, options

    def __call__(
        self, tokens_BT: NDArray[np.int64], lengths_B: NDArray[np.int64], actions_B: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """See the class."""
        is_forbidden_B = np.isin(actions_B, self.options.forbidden)
        if is_forbidden_B.any():
            raise ValueError(
                f"action {actions_B[is_forbidden_B][0]} was played, which the options of this penalty forbid; use an "
                "agent that obeys the action mask, or a penalty without options"
            )
        difference_B = -self._log_prob(self.reference, tokens_BT, lengths_B, actions_B)
        if self.policy is not None:
            difference_B += self._log_prob(self.policy, tokens_BT, lengths_B, actions_B)
        return self.beta * difference_B

    @torch.no_grad()
    def _log_prob(self, policy: RolloutPolicy, *prefixes: NDArray[np.int64]) -> NDArray[np.float64]:
        """log π(a|s), nats, (B,), by reading the prefixes."""
        device = getattr(policy, "device", "cpu")
        tokens_BT, lengths_B, actions_B = (torch.from_numpy(part).to(device) for part in prefixes)
        with evaluation_mode(policy):
            logits_BA = _next_logits(policy, tokens_BT, lengths_B)
        logp_BA = self.options.apply(logits_BA.double()).log_softmax(dim=1)
        logp_B: NDArray[np.float64] = logp_BA.gather(1, actions_B[:, None]).squeeze(1).cpu().numpy()
        return logp_B


def _next_logits(policy: RolloutPolicy, tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Next-token logits after prefixes, (B, A)."""
    if isinstance(policy, Generator):
        return policy.next_logits(tokens_BT, lengths_B)[0]
    state, last_B, logits = policy.initial_state(len(tokens_BT)), torch.full_like(lengths_B, policy.num_actions), []
    for t in range(int(lengths_B.max()) + 1):
        logits_BA, state = policy.step(last_B, state)
        logits.append(logits_BA)
        last_B = tokens_BT[:, t]
    return torch.stack(logits)[lengths_B, torch.arange(len(lengths_B))]
