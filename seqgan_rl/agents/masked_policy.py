"""The generator as policy of sb3-contrib's MaskablePPO: masks from the environment take part in every draw."""

from typing import ClassVar

try:
    from sb3_contrib.common.maskable.distributions import MaskableCategoricalDistribution
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
except ImportError as error:
    raise ImportError("MaskableGeneratorPolicy needs sb3-contrib; pip install 'seqgan_rl[contrib]'") from error

from seqgan_rl.agents.policy import GeneratorActorCritic


class MaskableGeneratorPolicy(GeneratorActorCritic, MaskableActorCriticPolicy):
    """:class:`~seqgan_rl.agents.policy.GeneratorPolicy` for MaskablePPO: same network, arguments and numbers.

    ``forward``, ``predict``, ``evaluate_actions`` and ``get_distribution`` take ``action_masks``, bool or 0 and 1 of
    shape (B, A), as an array or a tensor: a masked action has probability 0 and is never drawn. ValueError for a row
    that allows nothing.
    """

    samples_freely: ClassVar[bool] = False
    distribution_class = MaskableCategoricalDistribution
