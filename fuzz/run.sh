#!/usr/bin/env bash
# Runs targets for some time each: bash fuzz/run.sh SECONDS [TARGET...]
# Prints runs, coverage and result of each; fails if one found something, which then lies in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:?usage: bash fuzz/run.sh SECONDS [TARGET...]}
shift
# cargo-fuzz asks for flags of nightly compilers; a stable one takes them with this.
export RUSTC_BOOTSTRAP=1
[ $# -gt 0 ] || set -- load shapes normalise
failed=0
for target in "$@"; do
    log=$(mktemp)
    mkdir -p "fuzz/corpus/$target"
    result=ok
    cargo fuzz run --sanitizer none "$target" -- -max_total_time="$seconds" -timeout=1 -rss_limit_mb=1024 >"$log" 2>&1 || result=FAILED
    last=$(grep -E '^#[0-9]+' "$log" | tail -1 || true)
    runs=$(sed -nE 's/^Done ([0-9]+) runs.*/\1/p' "$log")
    coverage=$(sed -nE 's/.* cov: ([0-9]+).*/\1/p' <<<"$last")
    echo "$target: $result, ${runs:-$(sed -nE 's/^#([0-9]+).*/\1/p' <<<"$last")} runs, coverage ${coverage:-unknown}"
    if [ $result != ok ]; then
        grep -E -A1 'panicked at|^ +[0-9]+: |ERROR: libFuzzer|Test unit written|^error' "$log" | tail -40 || tail -40 "$log"
        failed=1
    fi
    rm -f "$log"
done
exit $failed
