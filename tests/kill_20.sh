#!/usr/bin/env bash
# Kills a study (SIGKILL) at 20 random moments, resumes it each time, and compares its journal with that of a study that
# was never stopped. Usage: tests/kill_20.sh [BINARY] [TRIALS] [SEED]; the binary defaults to target/release/gulliver.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
binary=${1:-target/release/gulliver} trials=${2:-120} RANDOM=${3:-20}
spec=search_spaces/cifar10-vgg.yaml
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tune() { exec "$binary" tune "$spec" --trials "$trials" --time 10h --study "$folder/$1" >/dev/null 2>&1; }

(tune whole) || true
lines=$(wc -l <"$folder/whole/journal.jsonl")
echo "never stopped: $lines lines"
killed=0
while [ "$killed" -lt 20 ]; do
    (tune killed) &
    pid=$!
    # From the middle of the preparation to some trials on.
    sleep "$((RANDOM % 6)).$((RANDOM % 10))"
    if kill -9 "$pid" 2>/dev/null; then
        killed=$((killed + 1))
        wait "$pid" 2>/dev/null || true
        echo "kill $killed: $(wc -l <"$folder/killed/journal.jsonl" 2>/dev/null || echo 0) lines"
    else
        echo "the study ended after $killed kills: give more trials" >&2
        exit 1
    fi
done
(tune killed) || true
cmp "$folder/whole/journal.jsonl" "$folder/killed/journal.jsonl"
echo "the same $(wc -c <"$folder/killed/journal.jsonl") bytes after $killed kills"
