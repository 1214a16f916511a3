"""One rank of a small DeepSpeed run that saves a checkpoint: `torchrun zero_worker.py FOLDER STAGE`.

FOLDER gets `checkpoint/`, as DeepSpeed writes it, and `plain/`, the same weights as transformers saves them.
"""

import sys
from pathlib import Path

import deepspeed
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    folder, stage = Path(sys.argv[1]), int(sys.argv[2])
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.model.layers[0].input_layernorm.weight.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(trained, lr=0.1), config=settings)
    ids = torch.randint(61, (1, 12), generator=torch.Generator().manual_seed(engine.global_rank))
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
    engine.save_checkpoint(str(folder / "checkpoint"))
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), enabled=stage == 3):
        if engine.global_rank == 0:
            weights = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
            plain = LlamaForCausalLM(config)
            plain.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
            plain.save_pretrained(folder / "plain")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
