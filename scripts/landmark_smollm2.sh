#!/usr/bin/env bash
# SmolLM2-135M made a landmark model and fine-tuned on documents of a few hundred tokens: passages of the King James Bible
# without Genesis, and pass keys hidden in such passages and in noise. Then pass keys in texts far longer than any of them,
# read with k retrieved blocks, beside the original model; and perplexity on Genesis by k, beside a window of equal cost.
#
#   scripts/landmark_smollm2.sh [FOLDER]    runs/landmark-smollm2 unless given; the same line again goes on where it stopped
#
# By environment: STEPS (240) of 2 sequences of LENGTH (1536) tokens, in which documents of up to some 770 are packed;
# LENGTHS (2k,8k,32k) and SAMPLES (10, at each of 5 depths) of the pass keys; one sample at each depth in texts of FAR
# (64k,128k) tokens, and of ORIGINAL_LENGTHS (2k,8k,16k) for the original model; BOOK_LENGTH (16k) of the perplexity.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/landmark-smollm2}
mkdir -p "$out"

[ -f "$out/train.jsonl" ] || {
    python scripts/passkey_documents.py "$out/aside.jsonl" --leave-out Genesis --documents 6000 --characters 1000:3000
    mv "$out/aside.jsonl" "$out/train.jsonl"
}

# A run that is through has its picture: nothing is done again.
[ -f "$out/run/run.png" ] ||
    ringattn train experiment=landmark_smollm2 data.path="$out/train.jsonl" data.packing=documents \
        run.folder="$out/run" resume=auto checkpoint.every=25 \
        trainer.steps="${STEPS:-240}" trainer.sequence_length="${LENGTH:-1536}" trainer.loss_chunk=1536 \
        trainer.evaluate_sequences=4 optimizer.learning_rate=3e-4 \
        launcher.processes=2 mesh.sequence_parallel=1 trainer.accumulation=1

evaluate() { # TASK FOLDER LENGTHS [settings of ringattn eval]
    local task=$1 folder=$2 lengths=$3
    shift 3
    [ -f "$out/$folder/result.json" ] ||
        ringattn eval tasks="$task" lengths="$lengths" name="$folder" data.book=Genesis windows=2 depths=5 processes=2 \
            out="$out/$folder" "$@"
}
# Each of two ranks reads texts of its own.
landmarks=(model.path="$out/run/checkpoints/latest" retrieval.keep=cpu mesh.sequence_parallel=1)
for k in 2 4 8; do
    # All of them the last blocks, which is a window of equal cost; half; none.
    for recent in $k $((k / 2)) 0; do
        evaluate perplexity "perplexity-k$k-recent$recent" "${BOOK_LENGTH:-16k}" "${landmarks[@]}" retrieval.k=$k \
            retrieval.recent=$recent
    done
done
evaluate passkey landmark-passkey "${LENGTHS:-2k,8k,32k}" "${landmarks[@]}" samples="${SAMPLES:-10}"
evaluate passkey landmark-passkey-far "${FAR:-64k,128k}" "${landmarks[@]}" samples=1
evaluate passkey original-passkey "${ORIGINAL_LENGTHS:-2k,8k,16k}" model=smollm2_135m samples=1
