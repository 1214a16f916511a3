"""What DeepSpeed can't do is refused before any worker starts."""

import pytest

from ringattn.settings.deepspeed import DeepSpeedConfig, check_deepspeed


@pytest.mark.parametrize(
    ("config", "optimizer", "said"),
    [
        ({"stage": 4}, "adamw", "deepspeed.stage is 0, 1, 2 or 3, got 4"),
        ({"stage": 0}, "muon", "got optimizer.name=muon and deepspeed.stage=0: write optimizer=adamw"),
        ({"stage": 3}, "muon", "got optimizer.name=muon and deepspeed.stage=3: write optimizer=adamw"),
        ({"stage": 0, "offload_optimizer": True}, "adamw", "stage 0 spreads none: write deepspeed=zero1"),
        ({"stage": 2, "offload_parameters": True}, "adamw", "needs stage 3, the one that spreads weights, got stage 2"),
        ({"offload_optimizer": True}, "adamw", "offloading is DeepSpeed's, and deepspeed.stage is null"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(config, optimizer, said):
    with pytest.raises(ValueError, match=said):
        check_deepspeed(DeepSpeedConfig(**config), optimizer=optimizer)


def test_what_goes_together_passes():
    check_deepspeed(DeepSpeedConfig(), optimizer="muon")
    check_deepspeed(DeepSpeedConfig(stage=3, offload_optimizer=True, offload_parameters=True), optimizer="adamw")
