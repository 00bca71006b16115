"""What a run takes over from another instead of training it again: the MLE, and the discriminator trained on it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import folder_written_whole, write_text

OF_MLE = ("seed", "data", "generator", "mle", "device", "threads", "compile")
"""Settings that decide the numbers of the MLE stage."""
OF_DISCRIMINATOR = ("network", "discriminator")
"""Settings that, with those, decide the numbers of the discriminator's pretraining."""
STAGES = {"mle": ("mle",), "discriminator": ("discriminator", "discriminator-training")}
"""Folders that each stage leaves, in the order of the stages."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The finished pretraining stages of another run that are the same in this one."""

    source: RunFolder
    stages: tuple[str, ...]
    """Stages taken over: the MLE, and the discriminator where its settings are the same."""

    @classmethod
    def of(cls, start: str | Path, config: RunConfig, data: RunData) -> Self:
        """What a run of these settings and data can take over. InputError where that is nothing."""
        source = RunFolder.open(start)
        theirs = source.config()
        different = [name for name in OF_MLE if getattr(theirs, name) != getattr(config, name)]
        if different:
            raise InputError(f"start {start} has another {', '.join(different)}; the MLE would not be the same")
        if RunData.load(source).corpus.content_hash != data.corpus.content_hash:
            raise InputError(f"start {start} has other data: a file that both name has changed since")
        done = (source.last_checkpoint() or (0, {"stage": 0}))[1]["stage"]
        stages = tuple(name for number, name in enumerate(STAGES) if number < done)
        if not stages:
            raise InputError(f"start {start} has not finished its MLE; continue it with --resume {start}")
        if any(getattr(theirs, name) != getattr(config, name) for name in OF_DISCRIMINATOR):
            stages = stages[:1]
        return cls(source=source, stages=stages)

    def copy_to(self, folder: RunFolder) -> None:
        """Put them into a new run, which goes on with the stage after them."""
        for stage in self.stages:
            for name in STAGES[stage]:
                with folder_written_whole(folder / name) as partial:
                    shutil.copytree(self.source / name, partial, dirs_exist_ok=True)
        rows = [json.dumps(row) + "\n" for row in read_metrics(self.source) if row.get("agent") in self.stages]
        write_text(folder / "metrics.jsonl", "".join(rows))
        size = (folder / "metrics.jsonl").stat().st_size
        folder.save_checkpoint(1, {"stage": len(self.stages), "metrics_bytes": size, "state": None, "stopped": {}})
