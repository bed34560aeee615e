#!/usr/bin/env bash
# Fills the corpora from real networks: bash fuzz/seed.sh FOLDER...
# Every .onnx file under the folders, the data of its big tensors taken out, unless more than 100 KB is left.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: bash fuzz/seed.sh FOLDER..." >&2; exit 2; }
mapfile -t folders < <(realpath -- "$@")
cd "$(dirname "${BASH_SOURCE[0]}")"

cargo build --quiet --release --package gulliver-strip
strip="${CARGO_TARGET_DIR:-target}/release/gulliver-strip"
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
while IFS= read -r -d '' file; do
    # Named by content, so that a network found twice is one seed.
    "$strip" "$file" "$seeds/new" 2>/dev/null || continue
    mv "$seeds/new" "$seeds/$(sha1sum <"$seeds/new" | cut -c1-16)"
done < <(find "${folders[@]}" -name '*.onnx' -print0)
for target in $(cargo fuzz list --fuzz-dir .); do
    mkdir -p "corpus/$target"
    cp "$seeds"/* "corpus/$target/"
    echo "$target: $(find "corpus/$target" -type f | wc -l) seeds"
done
