#!/usr/bin/env bash
# SmolLM2-135M, trained by its makers on 8,192 tokens, taken to 16,384 on the King James Bible without Genesis, and held
# against the same model with its positions stretched and nothing trained, on Genesis.
#
#   scripts/finetune_smollm2.sh [FOLDER]     runs/smollm2-16k unless given; the same line again goes on where it stopped
#
# Two ranks on two cores. STEPS (8) steps of one sequence of 16,384 tokens each.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/smollm2-16k}
mkdir -p "$out"

# A book that is never trained on.
[ -f "$out/bible.txt" ] || python scripts/bible_without.py Genesis "$out/bible.txt"

# Base of the rotary angles x 4: untrained it is near YaRN, and plain RoPE afterwards. A run that is through has its
# picture: it is not done again.
[ -f "$out/run/run.png" ] ||
    ringattn train model=smollm2_135m model.rope_scaling=theta:400000 data.path="$out/bible.txt" \
        run.folder="$out/run" resume=auto checkpoint.every=1 \
        trainer.sequence_length=16384 trainer.steps="${STEPS:-8}" trainer.gradient_checkpointing=true \
        trainer.loss_chunk=256 trainer.mlp_chunk=2048 trainer.evaluate_sequences=1 \
        adapter=lora adapter.rank=16 adapter.train_norms=true \
        optimizer.learning_rate=1.0e-3 optimizer.warmup=0.15 optimizer.final=0.1 \
        schedule=tokenring launcher.processes=2

# TASK FOLDER LENGTHS [settings of ringattn eval]; what is there already is left as it is.
evaluate() {
    local task=$1 folder=$2 lengths=$3
    shift 3
    [ -f "$out/$folder/result.json" ] ||
        ringattn eval "$@" tasks="$task" lengths="$lengths" name="${folder%-*}" data.book=Genesis windows=2 \
            depths=5 samples=1 processes=2 out="$out/$folder"
}
tuned="$out/run/checkpoints/latest"
# The original with the same lengths as the tuned one: windows of the longest are cut up, so both read the same tokens.
evaluate perplexity base-perplexity 2k,4k,8k,16k model=smollm2_135m
evaluate perplexity theta-perplexity 16k model=smollm2_135m model.rope_scaling=theta:400000
evaluate perplexity yarn-perplexity 16k model=smollm2_135m model.rope_scaling=yarn:16384
evaluate perplexity tuned-perplexity 2k,4k,8k,16k model.path="$tuned" compare="$out/base-perplexity"
evaluate passkey theta-passkey 16k model=smollm2_135m model.rope_scaling=theta:400000
evaluate passkey tuned-passkey 16k model.path="$tuned" compare="$out/theta-passkey"
