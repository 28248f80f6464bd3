#!/bin/bash
# What takes too long for every change. Run it before a release, or each night.
#
#     tests/nightly.sh [fuzz|soak|dist|benches]...     default: all
#
# fuzz     every fuzz target under libFuzzer, STRATA_FUZZ_SECONDS each (default: 60)
# soak     a hundred thousand scrapes while the machine changes
# dist     the release as packaged: fat LTO; its size beside that of `cargo build --release`
# benches  all benchmarks in full, on the dist build
#
# Results of the last run: docs/development/nightly.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
export PATH=$target/tools/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
dist=$target/dist/strata_exporter

fuzz() {
    tests/setup.sh tools
    fuzz/run.sh "${STRATA_FUZZ_SECONDS:-60}"
}

soak() {
    dist
    benches/soak.py --strata "$dist"
}

dist() {
    cargo build --profile dist
    cargo build --release
    stat -c '%s bytes %n' "$dist" "$target/release/strata_exporter"
}

benches() {
    dist
    local name
    for name in host containers domains history memory web_config; do
        "benches/$name.py" --strata "$dist"
    done
}

for name in "$@"; do
    case $name in
        fuzz | soak | dist | benches) ;;
        *)
            echo "usage: tests/nightly.sh [fuzz|soak|dist|benches]..." >&2
            exit 2
            ;;
    esac
done
(($#)) || set -- fuzz soak benches
for name in "$@"; do
    echo "== $name"
    "$name"
done
